"""Tasks by name. A task is a module or a package with NAME, build_prompt, load_splits, verify and REWARDS.

A task imports nothing of ours but what lies in its own folder, and what tasks share: the files beside the folders.
"""

from types import ModuleType

from trainers.tasks import code, countdown, math, own, sudoku
from trainers.tasks.word_problems import gsm8k, svamp

TASKS: dict[str, ModuleType] = {task.NAME: task for task in (gsm8k, svamp, countdown, sudoku, math, code, own)}
