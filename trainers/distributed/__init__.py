"""Several processes: sharded weights, exchanged values, and randomness that depends on a place in the run alone.

Imports models and settings.
"""
