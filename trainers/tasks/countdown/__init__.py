"""Countdown: the task `countdown`.

`instances` reads what a completion writes, `solving` finds a reference expression, `generator` draws instances.
"""

from trainers.tasks.countdown.task import NAME as NAME
from trainers.tasks.countdown.task import REWARDS as REWARDS
from trainers.tasks.countdown.task import build_prompt as build_prompt
from trainers.tasks.countdown.task import load_splits as load_splits
from trainers.tasks.countdown.task import verify as verify
