"""What a completion is worth under the policy: every published estimator, one file each.

Imports `core.scoring` and `core.nelbo`.
"""
