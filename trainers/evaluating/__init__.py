"""What stands behind scripts/evaluate.py and scripts/compare.py: sweeps, processes, journal, records, comparison."""
