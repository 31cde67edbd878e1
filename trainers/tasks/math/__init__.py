"""Competition mathematics: the task `math`.

A box in a text (`text`) is judged by math-verify in a worker process (`judge`, `worker`); `fractions` draws problems.
"""

from trainers.tasks.math.task import NAME as NAME
from trainers.tasks.math.task import REWARDS as REWARDS
from trainers.tasks.math.task import build_prompt as build_prompt
from trainers.tasks.math.task import load_splits as load_splits
from trainers.tasks.math.task import verify as verify
