"""What tests of the sandbox share: a runner whose walls hold, and an attack that is looked after."""

import itertools
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from marked import processes_with

from trainers.tasks.code.sandbox import Outcome, Run, open_sandbox, opening, runner

MARKS = itertools.count()


@pytest.fixture(scope="module")
def sandbox():
    """The runner of a platform that has namespaces, Landlock and seccomp; where it has them, everything holds."""
    found = opening.walls()
    if found.mode not in ("root", "user") or found.layers != runner.LAYERS:
        pytest.skip(f"this platform has mode {found.mode!r} and layers {sorted(found.layers)} alone")
    assert not found.missing
    return open_sandbox()


@pytest.fixture
def attack(sandbox):
    """Run code, look for what is left of it, and run something else."""

    def run(code: str, **limits) -> Outcome:
        mark = 30_000_000 + os.getpid() * 100 + next(MARKS)  # a limit without effect, to know its processes by
        changed = replace(sandbox.limits, **({"file_bytes": mark} | limits))
        outcome = replace(sandbox, limits=changed).run(Run(code))
        assert not outcome.outlived
        assert not processes_with(changed.file_bytes)
        assert sandbox.run(Run("print('the run goes on')")).stdout == "the run goes on\n"
        return outcome

    return run


@pytest.fixture
def open_directory():
    """A directory that every user may enter and change: only the sandbox keeps code out."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)
