"""Exact values by enumeration of short completions: what estimators and samplers are judged by.

`exact` has the likelihood and the NELBO of a completion, `sampler_law` the probability of everything that a
`DiffusionGenerator` can write, differentiable. Imports the generator and what lies below it; nothing outside studies
and tests imports this.
"""
