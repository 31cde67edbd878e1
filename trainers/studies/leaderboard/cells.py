"""The file of a cell: one entry with one seed, its record, and the lock by which processes share the work."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainers.evaluating.evaluation import GREEDY, SAMPLED, Evaluation
from trainers.saving.files import replace_file
from trainers.settings.config import ExperimentConfig
from trainers.settings.options import ConfigError
from trainers.studies.leaderboard.board import Leaderboard

MODES, PARSERS = (SAMPLED, GREEDY), ("strict", "lenient")
Records = dict[int, dict[str, Any]]  # seed -> record
Cells = dict[str, Records]  # entry -> its records


def verdict_digits(evaluations: dict[str, Evaluation]) -> dict[str, dict[str, str]]:
    """Mode -> parser -> one digit a problem, 1 for right."""
    return {
        mode: {parser: "".join(str(int(ok)) for ok in getattr(evaluations[mode], parser)) for parser in PARSERS}
        for mode in MODES
    }


def read_cell(board: Leaderboard, name: str, seed: int, config: ExperimentConfig) -> dict[str, Any] | None:
    """The record of a finished cell, or None.

    Raises:
        ConfigError: the file is damaged, or of other settings than those of now.
    """
    path = board.path(name, seed)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ConfigError(f"leaderboard cell {path}: damaged ({error}); delete it to run it again") from error
    now = board.identity(name, config)
    if any(record.get(key) != value for key, value in now.items()):
        raise ConfigError(
            f"leaderboard cell {path}: recorded with other settings than those of now "
            f"({_first_difference({key: record.get(key) for key in now}, now)}); delete it to run it again"
        )
    return record


def _first_difference(old: Any, new: Any, key: str = "") -> str:
    """Where two nested dictionaries part, in words; "" where they do not."""
    if isinstance(old, dict) and isinstance(new, dict):
        inner = (_first_difference(old.get(k), new.get(k), f"{key}.{k}".lstrip(".")) for k in {**old, **new})
        return next(filter(None, inner), "")
    return "" if old == new else f"{key} was {old!r} and is {new!r}"


def finished(board: Leaderboard) -> Cells:
    """Records of all finished cells."""
    found = {
        name: {seed: read_cell(board, name, seed, board.config(name, seed)) for seed in board.seeds}
        for name in board.names
    }
    return {name: {seed: cell for seed, cell in cells.items() if cell} for name, cells in found.items()}


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold the lock beside a cell's file; yields whether this process got it.

    The system drops the lock of a process that dies, so none is ever stale. The file stays: removing it would let two
    processes hold two files of one name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")  # for whoever looks
        lock.flush()
        yield True


def write_json(path: Path, content: Any) -> None:
    """Write beside, then rename: a reader finds the whole file or none."""
    replace_file(path, (json.dumps(content, indent=1) + "\n").encode())


def outcomes(record: dict[str, Any], budget: str, measure: str) -> list[float]:
    """0 or 1 a test problem, for the checkpoint that ``budget`` chose."""
    mode, parser = measure.split()
    return [float(digit) for digit in record["tests"][str(record["chosen"][budget])][mode][parser]]
