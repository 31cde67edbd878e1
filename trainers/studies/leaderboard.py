"""Several variants of one GRPO experiment at an equal budget: what to run, running it, and what is kept of it.

A *board* is read from one YAML: a base config, seeds, two budgets, and *entries*, each a set of options. A *cell* is
one entry with one seed and leaves one JSON file. Its run is measured by two meters:

- *forwards*: denoiser evaluations of one sequence, those of rollouts and of scoring (`trainer.evaluations`);
- *seconds*: compute time of training. On CPU the CPU time of this process, so that other jobs on the machine do not
  count (run one thread a process: threads that wait count too); on an accelerator wall time.

Validation is outside both. A *candidate* is the state of the weights at a validation: at the start, and at the last
step that does not pass a multiple of `validate_every` in either budget. Each budget chooses its best candidate on the
validation split, the earliest of equal ones, among those measured within it; the run ends when the next step would
pass both. Only what was chosen is tested, once. The entry "start" is the policy before any training.
"""

import difflib
import fcntl
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from transformers import SchedulerType, set_seed
from transformers.trainer_callback import PrinterCallback

from trainers.evaluating.evaluation import GREEDY, SAMPLED, Evaluation
from trainers.evaluating.statistics import numbered
from trainers.experiment import build_evaluator, build_trainer, load_experiment_policy, load_task
from trainers.grpo.trainer import ImprovedDiffuGRPOTrainer
from trainers.saving.environment import environment
from trainers.saving.files import replace_file
from trainers.settings.config import ExperimentConfig, parse
from trainers.settings.files import load_yaml
from trainers.settings.options import ConfigError
from trainers.studies.budgets import (
    BUDGETS,
    FORWARDS,
    SECONDS,
    Meter,
    Race,
    Say,
    compute_clock,
    restore_weights,
)

START = "start"
MODES, PARSERS = (SAMPLED, GREEDY), ("strict", "lenient")

# What every run is told, whatever the config says: its budget ends it, and nothing else is written or logged.
FIXED = {
    "max_steps": 100_000,
    "save_strategy": "no",
    "eval_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}
SECONDS_SLACK = 1.25  # the next step may take so much longer than the last one and still count


# ---- the board ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leaderboard:
    """What the YAML says.

    Attributes:
        base: config of every run.
        output_dir: where cells and tables go.
        seeds: one run an entry each.
        forwards, seconds: the two budgets.
        validate_every: share of a budget between validations.
        overrides: options of every entry, as on the command line.
        entries: name -> options of its own; the first is what the others are compared with.
    """

    base: str
    output_dir: str
    seeds: list[int]
    forwards: int
    seconds: float
    entries: dict[str, dict[str, Any]]
    validate_every: float = 0.2
    overrides: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        whole_seeds = isinstance(self.seeds, list) and all(type(seed) is int and seed >= 0 for seed in self.seeds)
        _require("seeds", self.seeds, whole_seeds and self.seeds, "a list of whole numbers from 0")
        _require("seeds", self.seeds, len(set(self.seeds)) == len(self.seeds), "each seed once")
        for name in BUDGETS:
            budget = getattr(self, name)
            _require(name, budget, _is_number(budget) and 0 < budget < math.inf, "a number above 0")
        share = self.validate_every
        _require("validate_every", share, _is_number(share) and 0 < share <= 1, "a number above 0, at most 1")
        _require("overrides", self.overrides, isinstance(self.overrides or {}, dict), "option: value pairs")
        _require("entries", self.entries, isinstance(self.entries, dict) and self.entries, "name: options pairs")
        for name, options in self.entries.items():
            _require(f"entries.{name}", options, isinstance(options or {}, dict), "option: value pairs")
        _require("entries", START, START not in self.entries, f"another name: {START!r} is the untrained policy")
        slugs = [slug(name) for name in self.entries]
        _require("entries", list(self.entries), len(set(slugs)) == len(slugs), "names with different file names")

    @property
    def names(self) -> list[str]:
        """Names of all rows: the untrained policy, then the entries."""
        return [START, *self.entries]

    def path(self, name: str, seed: int) -> Path:
        """The file of one cell."""
        return Path(self.output_dir) / slug(name) / f"seed{seed}.json"

    def config(self, name: str, seed: int) -> ExperimentConfig:
        """The experiment of one cell.

        Raises:
            ConfigError: an option that does not fit, with the name of the entry.
        """
        own = {} if name == START else self.entries[name] or {}
        fixed = {"seed": seed, "output_dir": str(self.path(name, seed).parent), **FIXED}
        argv = as_arguments({**(self.overrides or {}), **own, **fixed})
        try:
            config = parse([self.base, *argv])
        except ConfigError as error:
            raise ConfigError(f"leaderboard entry {name!r}: {error}") from error
        if config.trainer != "grpo":
            raise ConfigError(f"leaderboard base {self.base}: trainer={config.trainer!r}, expected 'grpo'")
        scheduler = SchedulerType(config.training.lr_scheduler_type).value
        if not scheduler.startswith("constant"):  # a decay would be over max_steps, which nothing reaches
            raise ConfigError(
                f"leaderboard entry {name!r}: training.lr_scheduler_type={scheduler!r}: "
                "expected constant or constant_with_warmup, as the budget and no number of steps ends a run"
            )
        return config

    def identity(self, name: str, config: ExperimentConfig) -> dict[str, Any]:
        """What a recorded cell must agree in: budgets and settings, but for where it is written."""
        settings = config.describe()
        settings["training"].pop("output_dir", None)
        budgets = {key: getattr(self, key) for key in (*BUDGETS, "validate_every")}
        return json.loads(json.dumps({"budgets": {} if name == START else budgets, "settings": settings}))


def read_leaderboard(path: Path) -> Leaderboard:
    """The board of a YAML file.

    Raises:
        ConfigError: a key that is unknown, missing or of the wrong kind, in one line.
    """
    document = load_yaml(path)
    known = [f.name for f in fields(Leaderboard)]
    for key in document:
        if key not in known:
            raise ConfigError(f"leaderboard {path}: unknown key {key!r}: {nearest(key, known)}")
    required = [name for name in known if name not in ("validate_every", "overrides")]
    missing = [name for name in required if document.get(name) is None]
    if missing:
        raise ConfigError(f"leaderboard {path}: {missing[0]} is missing; required are {', '.join(required)}")
    try:
        return Leaderboard(**document)
    except ConfigError as error:
        raise ConfigError(f"leaderboard {path}: {error}") from error


def nearest(name: str, known: Sequence[str]) -> str:
    """Advice for a name that is not among the known ones."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"


def slug(name: str) -> str:
    """A name as a folder: letters, digits and underscores."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def as_arguments(options: dict[str, Any]) -> list[str]:
    """Options as the command line would have them: `--key=value`, or `--key a b` for a list."""
    arguments: list[str] = []
    for key, value in options.items():
        if isinstance(value, list):
            arguments += [f"--{key}", *map(_as_text, value)]
        else:
            arguments.append(f"--{key}={_as_text(value)}")
    return arguments


def _as_text(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require(key: str, value: Any, holds: Any, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{key}={value!r}: expected {expected}")


# ---- cells ----------------------------------------------------------------------------------------------------------


def run_cell(board: Leaderboard, name: str, config: ExperimentConfig, say: Say) -> dict[str, Any]:
    """Train and test one cell.

    Args:
        board: the budgets.
        name: the entry, or "start".
        config: its experiment, seed included.
        say: takes lines of progress.

    Returns:
        The record, JSON-serialisable. A run that raised has its message under "failure"; what it had chosen by then
        is tested.

    Raises:
        ConfigError: the experiment cannot be set up.
    """
    task, splits = load_task(config.task)
    set_seed(config.training.seed)
    policy = load_experiment_policy(config, splits["train"])
    validation = build_evaluator(config, task, splits["validation"])
    test = build_evaluator(config, task, splits["test"])
    record: dict[str, Any] = {"entry": name, "seed": config.training.seed, **board.identity(name, config)}
    if name == START:
        outcome = test.both(policy)
        return record | {
            "steps": dict.fromkeys(BUDGETS, 0),
            "candidates": [],
            "chosen": dict.fromkeys(BUDGETS, 0),
            "tests": {"0": _outcomes(outcome)},
            "clusters": _numbered(outcome[SAMPLED].clusters),
            "environment": environment(),
            "failure": None,
        }

    trainer = build_trainer(config, task, splits, policy)
    assert isinstance(trainer, ImprovedDiffuGRPOTrainer)  # `Leaderboard.config` saw to it
    model = trainer.accelerator.unwrap_model(trainer.model)
    trainer.remove_callback(PrinterCallback)

    def validate() -> float:
        return validation.run(policy, config.training.temperature).accuracy("strict").value

    meters = {
        FORWARDS: Meter(board.forwards, board.validate_every),
        SECONDS: Meter(board.seconds, board.validate_every, SECONDS_SLACK),
    }
    clock = compute_clock(trainer.accelerator.device)
    before = trainer.evaluations
    race = Race(model, lambda: trainer.evaluations - before, clock, validate, meters, say)
    trainer.add_callback(race)
    failure = None
    try:
        trainer.train()
    except ConfigError:
        raise
    except (RuntimeError, ArithmeticError, ValueError) as error:  # diverged; any other kind of error is a mistake
        failure = f"step {trainer.state.global_step}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        say(f"failed at {failure}")
    tests, clusters = {}, ""
    for candidate, weights in race.best.values():
        if str(candidate.step) not in tests:
            restore_weights(model, weights)
            outcome = test.both(policy)
            tests[str(candidate.step)] = _outcomes(outcome)
            clusters = _numbered(outcome[SAMPLED].clusters)
    return record | {
        "steps": {key: meter.steps for key, meter in meters.items()},
        "candidates": [asdict(candidate) for candidate in race.candidates],
        "chosen": {key: candidate.step for key, (candidate, _) in race.best.items()},
        "tests": tests,
        "clusters": clusters,
        "environment": environment(),
        "failure": failure,
    }


def _outcomes(evaluations: dict[str, Evaluation]) -> dict[str, dict[str, str]]:
    """Mode -> parser -> one digit a problem, 1 for right."""
    return {
        mode: {parser: "".join(str(int(ok)) for ok in getattr(evaluations[mode], parser)) for parser in PARSERS}
        for mode in MODES
    }


def _numbered(clusters: Iterable[str]) -> str:
    """Clusters as numbers, in one text."""
    return " ".join(map(str, numbered(clusters)))


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


def run_board(board: Leaderboard, names: Sequence[str], seeds: Sequence[int], say: Say) -> None:
    """Run the cells that are neither finished nor another process's, one seed of all entries after the other.

    Raises:
        ConfigError: a cell cannot be set up; the others were run.
    """
    configs = {(name, seed): board.config(name, seed) for seed in seeds for name in names}
    for (name, seed), config in configs.items():  # a file of other settings is refused before any work
        read_cell(board, name, seed, config)
    refused: list[ConfigError] = []
    for (name, seed), config in configs.items():
        path = board.path(name, seed)
        with claimed(path) as mine:
            if not mine or read_cell(board, name, seed, config) is not None:
                continue
            say(f"{name}, seed {seed}")
            try:
                write_json(path, run_cell(board, name, config, say))
            except ConfigError as error:
                say(f"error: {error}")
                refused.append(ConfigError(f"leaderboard entry {name!r}: {error}"))
    if refused:
        raise refused[0]


def finished(board: Leaderboard) -> dict[str, dict[int, dict[str, Any]]]:
    """Records of all finished cells: entry -> seed -> record."""
    found = {
        name: {seed: read_cell(board, name, seed, board.config(name, seed)) for seed in board.seeds}
        for name in board.names
    }
    return {name: {seed: cell for seed, cell in cells.items() if cell} for name, cells in found.items()}
