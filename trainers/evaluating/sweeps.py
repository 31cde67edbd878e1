"""Rows of an evaluation: every combination of the values that are swept, each a checked config."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from trainers.settings.config import ExperimentConfig, parse
from trainers.settings.options import ConfigError
from trainers.settings.parser import SectionParser

SCHEDULE = ("loss.alpha_schedule", "loss.alpha_min", "loss.alpha_max")
SPEED = ("generation.batch_size", "generation.compile")  # they do not show in the completions


@dataclass(frozen=True)
class Row:
    """Attributes: ``changes``, setting -> value, of what is swept; ``config`` of this combination."""

    changes: dict[str, Any]
    config: ExperimentConfig


def rows(argv: list[str], sweeps: Sequence[Sequence[str]]) -> list[Row]:
    """One row a combination, the last setting changing fastest; without sweeps, one row.

    Args:
        argv: config file and overrides.
        sweeps: [setting, value, value, ...] each.

    Raises:
        ConfigError: a setting that sampling does not read, one without values or given twice, a value or combination
            that no run can use.
    """
    if not sweeps:
        return [Row({}, parse(argv))]
    texts = {f"--{key.lstrip('-')}": values for key, *values in sweeps}
    if len(texts) < len(sweeps):
        raise ConfigError(f"--sweep: one setting is swept twice, among {', '.join(key for key, *_ in sweeps)}")
    for key, values in texts.items():
        if not values:
            raise ConfigError(f"--sweep {key.removeprefix('--')}: expected one or more values after the setting")
    found: list[Row] = []
    for combination in product(*texts.values()):
        overrides = [f"{key}={value}" for key, value in zip(texts, combination, strict=True)]
        config = parse([*argv, *overrides])
        changes = {name: vars(config.training)[field] for name, field in _swept(config.trainer, texts).items()}
        if any(row.changes == changes for row in found):
            raise ConfigError(f"--sweep: {changes} occurs twice; give every value once")
        found.append(Row(changes, config))
    return found


def _swept(trainer: str, keys: Iterable[str]) -> dict[str, str]:
    """Setting -> field, for those that are swept."""
    parser = SectionParser(trainer)
    fields = [parser.names[key.removeprefix("--").replace("-", "_")] for key in keys]
    swept = {parser.dotted[field]: field for field in fields}
    if len(swept) < len(fields):
        raise ConfigError(f"--sweep: one setting is swept twice, as {' and '.join(keys)}")
    for name in swept:
        samples = name.startswith("generation.") and name not in SPEED
        if not samples and name not in SCHEDULE:
            raise ConfigError(
                f"--sweep {name}: expected a setting of section generation other than {' and '.join(SPEED)}, or one "
                f"of {', '.join(SCHEDULE)}: what sampling reads"
            )
    return swept
