"""What a person sees: lines in the terminal, report.md, curves.

Imports evaluating, rewarding and saving.
"""
