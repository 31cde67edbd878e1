"""The checked experiment: what `trainers.settings.parser` has read, as dataclasses."""

import copy
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from trainers.settings.diffusion import check_block_causal
from trainers.settings.dpo import DiffusionDPOConfig
from trainers.settings.grpo import ImprovedDiffuGRPOConfig
from trainers.settings.launching import settle_deepspeed
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError, dotted
from trainers.settings.parser import SHARED, Request, read
from trainers.settings.sft import DiffusionSFTConfig
from trainers.settings.task import TaskArguments
from trainers.settings.unsupported import UNSUPPORTED_IN_FILES, refuse

CONFIGS: dict[str, type] = {"grpo": ImprovedDiffuGRPOConfig, "sft": DiffusionSFTConfig, "dpo": DiffusionDPOConfig}


@dataclass(frozen=True)
class ExperimentConfig:
    """What one run needs to know; `describe()` says what it was told."""

    trainer: str
    training: ImprovedDiffuGRPOConfig | DiffusionSFTConfig | DiffusionDPOConfig
    model: ModelArguments
    task: TaskArguments
    config_path: Path
    settings: dict[str, dict[str, Any]]

    def __post_init__(self):
        refuse(self.training, UNSUPPORTED_IN_FILES)
        if self.model.attention == "block_causal":
            check_block_causal(self.training)

    def describe(self) -> dict[str, Any]:
        """Deviations from defaults, by section; JSON-serialisable, and itself a valid config file."""
        return {"trainer": self.trainer, **copy.deepcopy(self.settings)}


def build(request: Request) -> ExperimentConfig:
    """The dataclasses of a request.

    Raises:
        ConfigError: a value that no run can use, or values that do not go together.
    """
    training, values = CONFIGS[request.trainer], request.values
    return ExperimentConfig(
        trainer=request.trainer,
        training=_build(training, settle_deepspeed(values)),
        model=_build(ModelArguments, values),
        task=_build(TaskArguments, values),
        config_path=request.path,
        settings=_deviations((ModelArguments, TaskArguments, training), values),
    )


def parse(argv: list[str] | None = None) -> ExperimentConfig:
    """A config file and its overrides as dataclasses: `read`, then `build`."""
    return build(read(argv, check_known=False))


def _build(cls: type, values: dict[str, Any]) -> Any:
    try:
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})
    except ConfigError:
        raise
    except (ValueError, TypeError, ImportError) as error:  # TRL's and transformers' own checks
        raise ConfigError(f"section training: {' '.join(str(error).split())}") from error


def _deviations(classes: tuple[type, ...], values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The values that are not defaults, as section -> key -> value, in the order in which they were given."""
    options: dict[str, Any] = {}
    for option in (option for cls in classes for option in fields(cls)):
        if not (option.name in SHARED and option.name in options):
            options[option.name] = option
    sections: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        option = options[name]
        default = option.default if option.default_factory is MISSING else option.default_factory()
        if value != default:
            section, _, key = dotted(option).partition(".")
            sections.setdefault(section, {})[key] = value
    return sections
