"""Exact values by enumeration of short completions: what estimators and samplers are judged by.

Imports the generator; nothing outside studies and tests imports this.
"""
