"""From the `model` of a constructor to a policy: a name, a model of transformers, or a policy."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from core.denoisers import CachedDenoiser
from trainers.models.adapters import task_type
from trainers.models.in_memory import policy_around, refuse_hidden_adapter
from trainers.models.loading import load_policy
from trainers.models.policy import Policy
from trainers.settings.diffusion import DiffusionArguments, check_block_causal
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError, refusal

Model = str | PreTrainedModel | PeftModel | Policy


# ---- a policy of whatever is given ----------------------------------------------------------------------------------


def policy_of(model: Model, args: Any, processing_class: PreTrainedTokenizerBase | None = None) -> Policy:
    """The policy that a trainer trains.

    Args:
        model: a hub id, a directory (of an adapter too, which is merged) or an embedded name; a model in memory; or a
            policy, which is taken as it is.
        args: the trainer's options; of `model_init_kwargs` what `INIT_KWARGS` names reaches the loader.
        processing_class: the tokenizer; None: the checkpoint's own.

    Raises:
        ConfigError: the model cannot be loaded or is not what it is said to be, `processing_class` is no tokenizer or
            not the policy's, or the options do not fit the model.
    """
    if processing_class is not None and not isinstance(processing_class, PreTrainedTokenizerBase):
        raise ConfigError(f"processing_class={type(processing_class).__name__}: expected a tokenizer of transformers")
    if isinstance(model, str):
        return load_for(args, model_arguments(model, args), tokenizer=processing_class)
    if args.model_init_kwargs is not None:
        raise refusal(args, "model_init_kwargs", "expected None: the model is there already, and is not loaded")
    if isinstance(model, PreTrainedModel | PeftModel):
        policy = policy_around(model, processing_class, args.block_length, args.trust_remote_code)
        if policy.block_length is not None:
            check_block_causal(args)
    elif isinstance(model, Policy):
        policy = model
        if processing_class not in (None, policy.tokenizer):
            raise ConfigError("processing_class: a policy has its own tokenizer; leave it out")
        refuse_hidden_adapter(policy.model)
    else:
        raise ConfigError(f"model={type(model).__name__}: expected the name of a model, a PreTrainedModel or a Policy")
    return policy


def load_for(args: DiffusionArguments, arguments: ModelArguments, **options: Any) -> Policy:
    """The named model as a run needs it.

    Args:
        args: the run's options, which are checked against what the model turns out to be.
        arguments: the model section.
        options: further arguments of `load_policy`.

    Raises:
        ConfigError: as `load_policy`; or the model is block-causal, and the options are not.
    """
    policy = load_policy(arguments, block_length=args.block_length, **options)
    if policy.block_length is not None:  # what its family is, if the options did not say it
        check_block_causal(args)
        _say_if_uncached(policy, args)
    return policy


def _say_if_uncached(policy: Policy, args: DiffusionArguments) -> None:
    """One line where an exact cache is asked for, and a model of blocks has none: the texts are the same, later."""
    if args.cache != "exact" or isinstance(policy.denoiser(), CachedDenoiser):
        return
    if not dist.is_initialized() or dist.get_rank() == 0:
        print(
            f"generation.cache=exact: {type(policy.model).__name__} stores no keys and values that can be read again, "
            "so every evaluation of a rollout runs the prompt and all blocks before"
        )


# ---- TRL's words for how a model is loaded --------------------------------------------------------------------------


def _dtype(value: Any) -> Any:
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value


# key of TRL's model_init_kwargs -> (option of section model, its value)
INIT_KWARGS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "dtype": ("dtype", _dtype),
    "torch_dtype": ("dtype", _dtype),  # as it was called before transformers 5
    "attn_implementation": ("attn_implementation", lambda value: value),
    "trust_remote_code": ("trust_remote_code", bool),
    "use_safetensors": ("safetensors_only", bool),
}
# the values of others that say what is done anyway
AS_IT_IS: dict[str, tuple[Any, ...]] = {"use_cache": (False, None), "device_map": (None,), "revision": (None, "main")}
INSTEAD = {
    "revision": "download it with huggingface_hub.snapshot_download(..., revision=...) and pass that directory",
    "device_map": "the trainer places the model",
    "quantization_config": "pass load_policy(ModelArguments(name, load_in_4bit=True, use_peft=True)) as the model",
    "use_cache": "nothing is decoded left to right",
}


def model_arguments(name: str, args: Any) -> ModelArguments:
    """The model section that TRL's `model_init_kwargs` and `trust_remote_code` amount to.

    Raises:
        ConfigError: a key that has no place there.
    """
    told: Mapping[str, Any] = args.model_init_kwargs or {}
    values: dict[str, Any] = {"trust_remote_code": args.trust_remote_code}
    for key, value in told.items():
        if key in INIT_KWARGS:
            option, read = INIT_KWARGS[key]
            values[option] = read(value)
        elif key not in AS_IT_IS or value not in AS_IT_IS[key]:
            reason = INSTEAD.get(key, f"expected some of {', '.join(INIT_KWARGS)}")
            raise ConfigError(f"training.model_init_kwargs: {key}={value!r}: {reason}")
    return ModelArguments(model_name_or_path=name, **values)


# ---- LoRA -----------------------------------------------------------------------------------------------------------


def fitting(adapter: PeftConfig | None, policy: Policy) -> PeftConfig | None:
    """LoRA settings with a wrapper of peft that fits the model: the one for causal models wants more of a model than
    code that a checkpoint brings along has.

    Raises:
        ConfigError: no settings of peft, or a second adapter.
    """
    if adapter is None:
        return None
    if not isinstance(adapter, PeftConfig):
        raise ConfigError(f"peft_config={type(adapter).__name__}: expected settings of peft, such as peft.LoraConfig")
    if isinstance(policy.model, PeftModel):
        raise ConfigError("peft_config: the model has an adapter already, which is trained on; leave it out")
    if adapter.task_type is None or task_type(policy.model) == adapter.task_type:
        return adapter
    adapter = copy.copy(adapter)
    adapter.task_type = None
    return adapter


# ---- while TRL's constructor runs -----------------------------------------------------------------------------------


@contextmanager
def handed_to_trl(policy: Policy, args: Any) -> Iterator[None]:
    """While TRL's constructor has the model: what it must not be told, and what it must not leave behind.

    It would warn that `model_init_kwargs` are ignored, which have loaded the model. And it replaces the model's
    forward by one with a fused vocabulary head, which we score past: it runs the model that it was made for even in a
    copy of it, so that the reference of a second trainer would be the policy itself.
    """
    inside: Any = policy.model.get_base_model() if isinstance(policy.model, PeftModel) else policy.model
    own, told = vars(inside).get("forward"), args.model_init_kwargs
    args.model_init_kwargs = None
    try:
        yield
    finally:
        args.model_init_kwargs = told
        if own is not None:
            inside.forward = own
        else:
            vars(inside).pop("forward", None)
