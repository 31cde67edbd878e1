"""Where a model comes from: a record that is saved beside its weights, and travels with them when it is exported."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainers.settings.diffusion import DiffusionArguments
from trainers.settings.options import ConfigError
from trainers.tasks.messages import Prompt

RECORD = "provenance.json"
VERSIONS = ("torch", "transformers", "trl", "peft")
# How completions are sampled, and on which levels: what a model card has to say of the options.
SAMPLING = (
    "max_timesteps",
    "max_completion_length",
    "block_length",
    "alpha_schedule",
    "alpha_min",
    "alpha_max",
    "sampler",
    "selection",
    "counts",
    "solver",
    "temperature",
    "prediction_type",
    "likelihood",
)


def installed() -> dict[str, str]:
    """The libraries that run here, by version."""
    return {name: version(name) for name in VERSIONS}


@dataclass(frozen=True)
class Provenance:
    """What is known of a model beside the model itself.

    Attributes:
        sampling: values of `SAMPLING`.
        trainer: grpo, sft or dpo; None: not trained here.
        base: name of the model that training started from, good on any machine; empty: from nothing, or not known.
        settings: deviations from defaults, by section; a config file.
        task: name, source, and for each split its size and sha256.
        example: a prompt of the task.
        held_out: accuracies by name, with intervals, before and after.
        versions: of the libraries.
    """

    sampling: dict[str, Any]
    trainer: str | None = None
    base: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    example: Prompt = ""
    held_out: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=installed)

    @classmethod
    def of(cls, args: DiffusionArguments, base: str = "", **known: Any) -> "Provenance":
        """What the options say, and what else is known."""
        return cls({name: getattr(args, name) for name in SAMPLING}, base=root_of(base), **known)

    def save(self, directory: Path) -> None:
        """Write it beside the weights."""
        (directory / RECORD).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_provenance(directory: Path) -> Provenance | None:
    """The record beside a model's weights; None if there is none.

    Raises:
        ConfigError: it is damaged.
    """
    path = directory / RECORD
    if not path.is_file():
        return None
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        found = Provenance(**{name: known[name] for name in _names(known)})
        # records of before there was a choice say nothing of it
        return replace(found, sampling={"counts": "schedule"} | found.sampling)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from error


def _names(known: Iterable[str]) -> list[str]:
    names = [f.name for f in fields(Provenance)]
    if set(known) != set(names):
        raise ValueError(f"expected {', '.join(names)}")
    return names


def root_of(name: str) -> str:
    """The model that a directory's own training started from; anything else is itself."""
    known = read_provenance(Path(name)) if name else None
    return known.base if known is not None and known.trainer is not None else portable(name)


def portable(value: Any) -> Any:
    """Without the places where files lie on this machine: the ends of absolute paths, in settings of any shape."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [portable(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
