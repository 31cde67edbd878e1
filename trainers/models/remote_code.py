"""Model files that a checkpoint brings along, written for transformers 4 and run under transformers 5.

Only checkpoints that the user trusts get here. What transformers 5 asks of a model class, and such files do not do,
is done for them: they need not be edited. Four things differ:

* names that are gone (`fill_gaps`), among them the default rotary embedding;
* ``_tied_weights_keys``, a list of names that is now a mapping to what they are tied to;
* ``post_init()``, now required, and ``tie_weights()``, now called with arguments;
* a model is now built without memory, so what only its ``__init__`` can compute, such as the frequencies of a rotary
  embedding in a buffer that is not saved, is left as whatever the memory held (`restore`).
"""

import sys
from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, TypedDict
from weakref import WeakSet

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, utils
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.utils import import_utils

_ADAPTED: WeakSet[type] = WeakSet()
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


def fill_gaps() -> None:
    """Give transformers back the names that model files of transformers 4 import, where it has none of its own."""
    for module, name, value in (
        (utils, "LossKwargs", LossKwargs),
        (import_utils, "is_torch_fx_available", lambda: True),
    ):
        if not hasattr(module, name):
            setattr(module, name, value)


def adapt(path: str, config: PretrainedConfig, auto_class: type) -> bool:
    """Let the checkpoint's own model class do what transformers 5 asks of one, before it is loaded.

    Args:
        path: directory or hub id.
        config: its config.
        auto_class: the class of transformers that will load it.

    Returns:
        Whether there is such a class.
    """
    reference = (getattr(config, "auto_map", None) or {}).get(auto_class.__name__)
    if reference is None:
        return False
    model_class = get_class_from_dynamic_module(reference, path)
    names = vars(sys.modules[model_class.__module__])
    if ROPES in names:  # in the file's own eyes alone: transformers' models take theirs from elsewhere
        names[ROPES] = {"default": default_rope, **names[ROPES]}
    for own in names.values():
        if isinstance(own, type) and issubclass(own, PreTrainedModel) and own.__module__ == model_class.__module__:
            _adapt_tying(own)
    if model_class not in _ADAPTED:
        _ADAPTED.add(model_class)
        model_class.__init__ = _initialised(model_class, model_class.__init__)
    return True


def _initialised(model_class: type[PreTrainedModel], own: Callable[..., None]) -> Callable[..., None]:
    """An ``__init__`` that ends with `post_init`, as transformers 5 requires."""

    @wraps(own)
    def __init__(self: PreTrainedModel, *args: Any, **kwargs: Any) -> None:
        own(self, *args, **kwargs)
        if type(self) is model_class and "all_tied_weights_keys" not in vars(self):
            self.post_init()

    return __init__


def _adapt_tying(model_class: Any) -> None:
    """Tied names as a mapping, and a `tie_weights` that takes what transformers 5 hands to it."""
    listed, own = vars(model_class).get("_tied_weights_keys"), vars(model_class).get("tie_weights")
    if isinstance(listed, list):
        model_class._tied_weights_keys = property(lambda self: dict.fromkeys(listed, _embedding_name(self)))
    elif listed is None and own is not None:
        model_class._tied_weights_keys = property(_shared)
    if own is not None and not _takes(own, missing_keys=None, recompute_mapping=False):

        def tie_weights(
            self: PreTrainedModel, missing_keys: set[str] | None = None, recompute_mapping: bool = True
        ) -> None:
            own(self)

        model_class.tie_weights = tie_weights


def _takes(method: Callable[..., Any], **arguments: Any) -> bool:
    try:
        signature(method).bind(None, **arguments)
    except TypeError:
        return False
    return True


def _shared(model: PreTrainedModel) -> dict[str, str]:
    """Names of weights that are another one's too, and that one's name: what a `tie_weights` of its own has done."""
    first: dict[int, str] = {}
    names = (
        (name, first.setdefault(id(weight), name)) for name, weight in model.named_parameters(remove_duplicate=False)
    )
    return {name: other for name, other in names if name != other}


def _embedding_name(model: PreTrainedModel) -> str:
    embedding = model.get_input_embeddings()
    return next(name for name, module in model.named_modules() if module is embedding) + ".weight"


def restore(model: PreTrainedModel) -> None:
    """Compute again what a loaded model's ``__init__`` computes and its checkpoint does not hold: buffers that are not
    saved, and tensors that are plain attributes. No memory is taken for weights."""
    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
        fresh = type(model)(model.config)
    for name, module in fresh.named_modules():
        loaded = model.get_submodule(name)
        for key in module._non_persistent_buffers_set:
            value, before = module._buffers[key], loaded._buffers.get(key)
            if value is not None and before is not None and value.device.type != "meta":
                loaded._buffers[key] = value.to(before)  # its device and dtype
        for key, value in vars(module).items():
            if isinstance(value, Tensor) and vars(loaded)[key].device.type == "meta":
                setattr(loaded, key, value.to(_device(loaded, model)))


def _device(module: nn.Module, model: PreTrainedModel) -> torch.device:
    return next((buffer.device for buffer in module.buffers()), model.device)
