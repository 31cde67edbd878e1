"""VRPO: DPO on likelihood bounds, and the pairs of completions that it learns from.

Imports evaluating, saving, models and settings.
"""
