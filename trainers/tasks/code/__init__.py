"""Code with unit tests: the task `code`.

Problems are read from files (`problems`) or drawn (`functions`); `sandbox` runs what a model wrote.
"""

from trainers.tasks.code.task import NAME as NAME
from trainers.tasks.code.task import REWARDS as REWARDS
from trainers.tasks.code.task import build_prompt as build_prompt
from trainers.tasks.code.task import load_splits as load_splits
from trainers.tasks.code.task import verify as verify
