"""What is written beside weights, and whether it is whole.

Imports distributed, faults, models and settings.
"""
