"""4x4 sudoku: the task `sudoku`.

`grids` has the rule and the solver, `puzzles` the generator, the records and the split.
"""

from trainers.tasks.sudoku.task import NAME as NAME
from trainers.tasks.sudoku.task import REWARDS as REWARDS
from trainers.tasks.sudoku.task import build_prompt as build_prompt
from trainers.tasks.sudoku.task import load_splits as load_splits
from trainers.tasks.sudoku.task import verify as verify
