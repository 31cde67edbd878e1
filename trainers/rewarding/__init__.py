"""Rewards that may fail, and what they are worth.

`arguments` looks at what a reward function takes. `guard` calls a reward that may raise, hang (`time_limit`) or return
nonsense. `tolerant.FaultTolerantRewards` is the mixin of the GRPO trainer, in which a failed value pulls neither way
(`neutral`). `log` writes down what failed, and `hacking` tells rewards that rise while accuracy falls, which `watch`
warns of during the run.

It may import `trainers.saving`, `trainers.settings`, what lies below, and knows no trainer of ours. It hands on no
name: reports read `log` and `hacking` without TRL, which `tolerant` imports.
"""
