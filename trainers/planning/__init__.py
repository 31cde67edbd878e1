"""What a run will cost before it is started: arithmetic, memory, communication, days; see scripts/plan.py.

The real sampler and the real likelihood are run with a model that only counts what it is asked (`work`), and the
benchmark's cost model (`trainers.benchmarking.roofline`) says what that takes on a machine (`machines`). Memory by
strategy is in `memory`, what processes send to one another in `network`.
"""
