"""Held-out accuracy, and what stands behind scripts/evaluate.py, compare.py and harness.py.

    evaluation.py  an evaluator and what it finds; statistics.py: intervals that respect clusters of problems
    work.py        the answers to be made, shared by processes; journal.py keeps them, so that a kill loses none
    sweeps.py      combinations of settings; together.py: evaluation inside a training run; first.py: before its start
    record.py      the JSON; identity.py: what two records must share; comparison.py: paired, with McNemar's test
    harness.py     a bridge to lm-evaluation-harness; solved.py: problems that are sometimes solved

Imports saving, distributed, models and settings.
"""
