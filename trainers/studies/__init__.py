"""Experiments about methods: estimators against exact values, leaderboards at equal budgets, measurements.

Imports every wing of trainers but planning.
"""
