"""Shapes and types of core are checked at every call a test makes, trainers' calls included. Slow tests are marked."""

import gc
import os

# before anything reads it: no hub, no loading bars (what `trainers.commands.quiet_libraries` does for a command)
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}

import pytest
from jaxtyping import install_import_hook
from slow import reason

install_import_hook("core", "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what the table of `slow` names."""
    for item in items:
        why = reason(item.nodeid)
        if why is not None:
            item.add_marker(pytest.mark.slow(why))


def pytest_collection_finish() -> None:
    """What is imported by now stays: a trainer collects garbage whenever it starts, and would look through all of it,
    a third of a second each time."""
    gc.collect()
    gc.freeze()
