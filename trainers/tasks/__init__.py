"""Tasks by name. A task is one module with NAME, build_prompt, load_splits, verify and REWARDS; it imports nothing
of ours but what tasks share in this package."""

from types import ModuleType

from trainers.tasks import code, countdown, gsm8k, math, sudoku, svamp

TASKS: dict[str, ModuleType] = {task.NAME: task for task in (gsm8k, svamp, countdown, sudoku, math, code)}
