"""What a model's denoising costs and brings on held-out problems (scripts/measure_sampling.py).

Each measurement of a `bench.Bench` is a table of numbers: `exposure` for exposure bias, `decoding` for step counts and
solvers. Everything is measured on the same problems; masks and sampling noise depend on the seed, the repetition and
the place alone. Intervals are 95% intervals of a mean over problems, clustered as in `trainers.evaluating.statistics`.
Repetitions are averaged problem by problem first: they take out the noise of sampling, not that of few problems.

`options` reads command lines, `rows` holds what was found.
"""
