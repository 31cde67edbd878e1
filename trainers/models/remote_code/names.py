"""Names of transformers 4 that model files import, and the registers of transformers that they write to."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypedDict

import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, PretrainedConfig, utils
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME, import_utils

ROPES = "ROPE_INIT_FUNCTIONS"  # of transformers.modeling_rope_utils


class LossKwargs(TypedDict, total=False):
    """What transformers 4 called the arguments of a loss."""

    num_items_in_batch: int | None


def default_rope(config: PretrainedConfig, device: Any = None, **kwargs: Any) -> tuple[Tensor, float]:
    """Frequencies of the plain rotary embedding (RoFormer, 2104.09864, equation 15), (d / 2,), and a scale of 1."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dim = int(head_dim * getattr(config, "partial_rotary_factor", 1.0))
    exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim
    return config.rope_theta**-exponents, 1.0


@contextmanager
def hosted() -> Iterator[None]:
    """Transformers with the names that model files of transformers 4 import.

    What files register of themselves is out of sight, before and after: transformers would take their classes for
    those of every other checkpoint of the same ``model_type``, such as LLaDA's for LLaDA-MoE's.
    """
    for module, name, value in (
        (utils, "LossKwargs", LossKwargs),
        (import_utils, "is_torch_fx_available", lambda: True),
    ):
        if not hasattr(module, name):
            setattr(module, name, value)
    models = (auto._model_mapping for auto in (AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM))
    registers = [register._extra_content for register in (CONFIG_MAPPING, TOKENIZER_MAPPING, *models)]
    before = [dict(register) for register in registers]
    try:
        for register, known in zip(registers, before, strict=True):
            _set(register, {key: value for key, value in known.items() if not _brought(key, value)})
        yield
    finally:
        for register, known in zip(registers, before, strict=True):
            _set(register, known)


def _set(register: dict[Any, Any], known: dict[Any, Any]) -> None:
    register.clear()
    register.update(known)


def _brought(*entry: Any) -> bool:
    """Whether a class in an entry of a register came with a checkpoint."""
    return any(getattr(part, "__module__", "").startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}.") for part in entry)


def give_ropes(names: dict[str, Any]) -> None:
    """The default rotary embedding, in the eyes of a file alone: transformers' models take theirs from elsewhere."""
    if ROPES in names:
        names[ROPES] = {"default": default_rope, **names[ROPES]}
