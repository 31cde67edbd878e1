"""What scripts/benchmark.py measures: rollouts, likelihood steps and optimiser steps, beside published samplers.

`counters` counts what a model is asked, `roofline` says what that costs and measures what the machine can do, `shapes`
makes models with random weights, `contenders` and `peers` are the generators that `rollouts` runs side by side,
`losses` and `steps` the training work, `tables` what is printed. `trainers.planning` reads the same costs.

It may import `trainers.models`, `trainers.settings`, what lies below, and `core`. It hands on no name: `counters`,
`memory` and `roofline` are used without the models that the others load.
"""
