"""Shapes and types of core are checked at every call that a test of core makes; with SHAPES=all, as in CI, at every
call of any test, which takes the tests of trainers half as long again. Slow tests are marked.
"""

import gc
import os

import pytest
from jaxtyping import config, install_import_hook
from paths import REPO
from slow import reason

from trainers.commands import quiet_libraries

CORE = REPO / "tests" / "core"

os.environ.setdefault("HF_HUB_OFFLINE", "1")
quiet_libraries()
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
