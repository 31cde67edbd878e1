"""What stands behind scripts/benchmark.py: shapes, peers, counters, measured peaks and tables."""
