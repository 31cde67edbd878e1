"""Prompts and answers from the user's own files or the hub: the task `own`.

`files` reads records, `rows` makes a row of a record, `task` splits the rows and compares a text with its answer.
"""

from trainers.tasks.own.task import NAME as NAME
from trainers.tasks.own.task import REWARDS as REWARDS
from trainers.tasks.own.task import build_prompt as build_prompt
from trainers.tasks.own.task import load_splits as load_splits
from trainers.tasks.own.task import verify as verify
