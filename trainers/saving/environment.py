"""Where a run takes place, for reports and records."""

import platform
from importlib.metadata import version
from typing import Any

import torch

VERSIONS = ("torch", "trl", "transformers", "accelerate", "datasets", "peft")


def environment() -> dict[str, Any]:
    """Machine and versions, for reports."""
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in VERSIONS},
    }
