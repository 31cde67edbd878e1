"""Experiments about methods, a folder each; each folder's docstring says what is measured and which file does what.

- `estimators`: likelihood estimators against exact values, on a model small enough (scripts/compare_estimators.py);
- `leaderboard`: variants of one experiment at equal budgets (scripts/leaderboard.py);
- `measurements`: exposure bias, steps and solvers of one model (scripts/measure_sampling.py).

Imports every wing of trainers but planning.
"""
