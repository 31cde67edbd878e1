"""A check-up of a checkpoint: is it read for what it is, does it train, does it come back as it was saved?

Imports everything below. `scripts/doctor.py` prints what is found.
"""
