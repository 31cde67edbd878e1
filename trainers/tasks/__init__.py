"""Tasks by name. A task is one module with NAME, build_prompt, load_splits, verify and REWARDS; it imports nothing
of ours."""

from types import ModuleType

from trainers.tasks import countdown, gsm8k

TASKS: dict[str, ModuleType] = {gsm8k.NAME: gsm8k, countdown.NAME: countdown}
