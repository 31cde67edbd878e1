"""Tasks by name. A task is one module with NAME, build_prompt, load_splits, verify and REWARDS; it imports nothing
of ours but what tasks share in this package."""

from types import ModuleType

from trainers.tasks import countdown, gsm8k, svamp

TASKS: dict[str, ModuleType] = {gsm8k.NAME: gsm8k, svamp.NAME: svamp, countdown.NAME: countdown}
