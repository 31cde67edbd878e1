"""The runner and its launcher: a program runs as it would outside, and a sandbox that breaks is no verdict."""

import os
import shutil
import signal
import threading
import time
from dataclasses import replace

import pytest
from marked import parent_of, processes_with

from trainers.tasks.code.sandbox import Run, SandboxError, jobs

# --- attacks --------------------------------------------------------------------------------------


def test_an_ordinary_program_runs_as_it_would_outside(sandbox):
    code = """
import asyncio.events, collections, dataclasses, json, math, random, re, sys, threading
@dataclasses.dataclass
class Point:
    x: int
numbers = []
thread = threading.Thread(target=lambda: numbers.append(math.sqrt(16)))
thread.start(); thread.join()
print(json.dumps([dataclasses.asdict(Point(1)), numbers]), __name__)
print("aside", file=sys.stderr)
sys.exit(7)
"""
    outcome = sandbox.run(Run(code))
    assert (outcome.status, outcome.exit_code) == ("exited", 7)
    assert (outcome.stdout, outcome.stderr) == ('[{"x": 1}, [4.0]] __main__\n', "aside\n")


def test_several_at_once_keep_their_order(sandbox):
    codes = [f"import time; time.sleep({0.2 * (i == 0)}); print({i})" for i in range(6)]
    outcomes = replace(sandbox, workers=3).run_all([Run(code) for code in codes])
    assert [outcome.stdout for outcome in outcomes] == [f"{i}\n" for i in range(6)]


# --- what the platform cannot enforce ------------------------------------------------------------


def test_a_sandbox_that_cannot_be_built_is_no_outcome(sandbox, monkeypatch, tmp_path):
    broken = tmp_path / "launcher.py"
    broken.write_text("raise SystemExit('no walls here')")
    monkeypatch.setattr(jobs, "LAUNCHER", broken)
    with pytest.raises(SandboxError, match="the launcher"):
        sandbox.run(Run(""))


def test_the_launcher_finds_its_siblings_by_path_and_takes_nothing_else_from_there(sandbox, monkeypatch, tmp_path):
    """It runs as a script, without site-packages: a file beside it must not stand in for the standard library."""
    folder = tmp_path / "trainers/tasks/code/sandbox"
    shutil.copytree(jobs.LAUNCHER.parent, folder)
    for planted in ("json", "resource", "select"):
        (folder / f"{planted}.py").write_text("raise SystemExit('imported from beside the launcher')")
    for above in (folder, *folder.parents[:3]):
        (above / "__init__.py").write_text("raise SystemExit('the launcher imported a package')")
    solution = folder / "solution.py"
    solution.write_text(solution.read_text().replace('"<code>"', '"<code of the copy>"'))
    monkeypatch.setattr(jobs, "LAUNCHER", folder / "launcher.py")
    assert "<code of the copy>" in sandbox.run(Run("1 / 0")).stderr


def test_a_launcher_that_is_killed_takes_everything_along(sandbox):
    """As when the trainer dies: the kernel kills the judge with its parent, and with it all inside."""
    mark = 27_182_818
    changed = replace(sandbox, limits=replace(sandbox.limits, file_bytes=mark, wall_seconds=20.0))
    outcomes = []

    def run():
        try:
            outcomes.append(changed.run(Run("import time; time.sleep(15)")))
        except SandboxError as error:
            outcomes.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    for _ in range(2):  # it is tried twice
        deadline = time.monotonic() + 15
        while not (found := processes_with(mark)) and time.monotonic() < deadline:
            time.sleep(0.01)
        judge = parent_of(found[0])
        os.kill(parent_of(judge), signal.SIGKILL)
        while found[0] in processes_with(mark) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert found[0] not in processes_with(mark)
    thread.join(timeout=20)
    assert isinstance(outcomes[0], SandboxError)
