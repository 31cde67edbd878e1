"""How a completion is scored: states drawn once, scored as often as asked, without all logits at a time.

What every policy likelihood shares. Imports denoisers, the masking strategy and the trajectory; the estimators
themselves are in `core.nelbo` and `core.likelihoods`.
"""
