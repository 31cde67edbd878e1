"""Shapes and types of core are checked at every call that a test of core makes; with SHAPES=all, as in CI, at every
call of any test, which takes the tests of trainers half as long again. Slow tests are marked.
"""

import gc
import os

# before anything reads it: no hub, no loading bars (what `trainers.commands.quiet_libraries` does for a command)
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}

import pytest
from jaxtyping import config, install_import_hook
from paths import REPO
from slow import reason

CORE = REPO / "tests" / "core"

install_import_hook("core", "beartype.beartype")


@pytest.fixture(autouse=True)
def checked_shapes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    of_core = request.path.is_relative_to(CORE)
    monkeypatch.setattr(config, "jaxtyping_disable", not of_core and os.environ.get("SHAPES") != "all")


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
