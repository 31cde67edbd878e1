"""The board: what its YAML says, checked, and the experiment of each of its cells."""

import difflib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from transformers import SchedulerType

from trainers.settings.config import ExperimentConfig, parse
from trainers.settings.files import load_yaml
from trainers.settings.options import ConfigError
from trainers.studies.leaderboard.budgets import BUDGETS

START = "start"  # name of the untrained policy

# What every run is told, whatever the config says: its budget ends it, and nothing else is written or logged.
FIXED = {
    "max_steps": 100_000,
    "save_strategy": "no",
    "eval_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


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
