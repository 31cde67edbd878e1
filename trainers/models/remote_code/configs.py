"""Configs that come with a checkpoint's own code: of the model, and of its generation."""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any

from transformers import GenerationConfig

# What every config of transformers 4 (4.57) had and one of transformers 5 has only where its class declares it.
# Options of generation are left out: transformers 5 would take them for the model's own wishes.
DEFAULTS = {
    "add_cross_attention": False,
    "bos_token_id": None,
    "cross_attention_hidden_size": None,
    "decoder_start_token_id": None,
    "eos_token_id": None,
    "finetuning_task": None,
    "is_decoder": False,
    "pad_token_id": None,
    "prefix": None,
    "pruned_heads": {},
    "sep_token_id": None,
    "task_specific_params": None,
    "tie_encoder_decoder": False,
    "tie_word_embeddings": True,
    "tokenizer_class": None,
    "torchscript": False,
    "use_bfloat16": False,
}


def complete_config(own: type) -> None:
    """Give a config class what transformers 4 gave it, as attributes of the class: they are not saved."""
    for name, value in DEFAULTS.items():
        if not hasattr(own, name):
            setattr(own, name, value)


def complete_generation_config(own: type[GenerationConfig]) -> None:
    """Give a generation config with an ``__init__`` of its own what transformers 5 reads of one, and call its
    ``validate`` with the arguments that it takes."""
    for name, value in vars(GenerationConfig()).items():
        if not hasattr(own, name):
            setattr(own, name, value)
    if "validate" in vars(own):
        own.validate = forgiving(own.validate)


def forgiving(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that may be called with keywords that it does not take: what transformers 5 hands on beyond those of
    transformers 4."""
    taken = signature(method).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken):
        return method
    names = {parameter.name for parameter in taken}

    @wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self, *args, **{name: value for name, value in kwargs.items() if name in names})

    return called
