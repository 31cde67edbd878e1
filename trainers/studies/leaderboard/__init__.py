"""Leaderboards: several variants of one GRPO experiment at an equal budget (scripts/leaderboard.py).

A *board* is read from one YAML: a base config, seeds, two budgets, and *entries*, each a set of options. A *cell* is
one entry with one seed and leaves one JSON file. Its run is measured by two meters:

- *forwards*: denoiser evaluations of one sequence, those of rollouts and of scoring (`trainer.evaluations`);
- *seconds*: compute time of training. On CPU the CPU time of this process, so that other jobs on the machine do not
  count (run one thread a process: threads that wait count too); on an accelerator wall time.

Validation is outside both. A *candidate* is the state of the weights at a validation: at the start, and at the last
step that does not pass a multiple of `validate_every` in either budget. Each budget chooses its best candidate on the
validation split, the earliest of equal ones, among those measured within it; the run ends when the next step would
pass both. Only what was chosen is tested, once. The entry "start" is the policy before any training.

`board` reads the YAML, `budgets` and `race` end a run and keep its best weights, `running` trains and tests, `cells`
holds what is finished, `rows` and `intervals` make numbers of it, `report` and `picture` show them.
"""
