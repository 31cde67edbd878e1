"""Stand-ins for every family of models: tiny, random, and as awkward to load and to call as the real ones."""
