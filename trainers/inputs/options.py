"""Default options of a trainer, and arguments of TRL's constructors that a diffusion trainer cannot honour."""

from collections.abc import Mapping
from typing import Any, TypeVar

from trainers.inputs.model import Model
from trainers.models.in_memory import source_of
from trainers.models.policy import Policy
from trainers.models.told import block_length_of
from trainers.settings.diffusion import DiffusionArguments
from trainers.settings.options import ConfigError
from trainers.settings.unsupported import NO_TOOLS

Options = TypeVar("Options", bound=DiffusionArguments)

QUANTISED = "pass load_policy(ModelArguments(name, load_in_4bit=True, use_peft=True)) as the model"
CANVASES = "rows become canvases of a fixed length, which the trainer's own collator makes"
NO_LOGITS = "evaluation has a bound on masked states, and no left-to-right logits"

# Arguments of TRL's constructors: name -> why they are refused.
UNTAKEN_GRPO = {
    "tools": NO_TOOLS,
    "environment_factory": NO_TOOLS,
    "rollout_func": "completions come from the denoising loop, whose states the loss scores",
    "quantization_config": QUANTISED,
}
UNTAKEN_SFT = {
    "formatting_func": "map the data set to columns prompt and completion, or messages, before",
    "data_collator": CANVASES,
    "compute_loss_func": "the loss is the diffusion bound: see section loss",
    "compute_metrics": NO_LOGITS,
    "preprocess_logits_for_metrics": NO_LOGITS,
    "quantization_config": QUANTISED,
}
UNTAKEN_DPO = {
    "ref_model": "the reference is what the run starts from",
    "data_collator": CANVASES,
    "compute_metrics": NO_LOGITS,
    "quantization_config": QUANTISED,
}


def refuse_arguments(given: Mapping[str, Any], untaken: Mapping[str, str]) -> dict[str, Any]:
    """The further arguments for TRL's constructor.

    Raises:
        ConfigError: one of ``untaken``, name -> reason, is not None.
    """
    for name, reason in untaken.items():
        if given.get(name) is not None:
            raise ConfigError(f"{name}: not supported: {reason}")
    return {name: value for name, value in given.items() if name not in untaken}


def options_of(cls: type[Options], args: Any, model: Model, suffix: str) -> Options:
    """The options of a run; without any, the defaults, with an output directory named after the model.

    Args:
        cls: the trainer's own options.
        args: what the user gives; None: nothing.
        model: what is to be trained.
        suffix: of the directory, as TRL names it: {name of the model}-{suffix}.

    Raises:
        ConfigError: options of another kind.
    """
    if args is None:
        return cls(output_dir=f"{_name_of(model)}-{suffix}", block_length=_block_length(model))  # pyright: ignore[reportCallIssue]  TRL's side of the dataclass has it
    if not isinstance(args, cls):
        raise ConfigError(
            f"args={type(args).__name__}: expected {cls.__name__}, which takes TRL's options and those of a diffusion "
            "model"
        )
    return args


def _source(model: Model) -> str:
    if isinstance(model, str):
        return model
    return model.name if isinstance(model, Policy) else source_of(model)


def _name_of(model: Model) -> str:
    """The last part of what a model was loaded from; of one that was built here, its class."""
    inside = model.model if isinstance(model, Policy) else model
    return _source(model).rstrip("/").split("/")[-1] or type(inside).__name__


def _block_length(model: Model) -> int | None:
    """Tokens of a block, where the model has blocks and says how long."""
    if isinstance(model, Policy):
        return model.block_length
    return block_length_of(_source(model)) if _source(model) else None
