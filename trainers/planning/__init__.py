"""What a run will cost before it is started: arithmetic, memory, communication, days; behind scripts/plan.py.

The real sampler and the real likelihood are run with a model that only counts what it is asked (`work`), and the
benchmark's cost model (`trainers.benchmarking.roofline`) says what that takes on a machine (`machines`). `plan` puts
it together: memory by strategy is in `memory` and `ways`, what processes send one another in `network`, parts of a
step in `phases`. `check` measures a plan against the machine it is made on.

On the top floor: it may import every wing but `trainers.studies`. It hands on no name; scripts/plan.py imports the
modules, so that a table of memory does not wait for the trainers that `check` starts.
"""
