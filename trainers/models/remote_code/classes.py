"""Model classes that come with a checkpoint's own code."""

import sys
from collections.abc import Callable, Iterator
from functools import wraps
from inspect import isclass
from typing import Any
from weakref import WeakSet

from torch import nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from trainers.models.remote_code.configs import complete_config, complete_generation_config, forgiving
from trainers.models.remote_code.names import give_ropes

_ADAPTED: WeakSet[type] = WeakSet()


def adapt(path: str, config: PretrainedConfig, auto_class: type) -> bool:
    """Let the checkpoint's own classes do what transformers 5 asks of them, before its model is loaded.

    Args:
        path: directory or hub id.
        config: its config.
        auto_class: the class of transformers that will load it.

    Returns:
        Whether there is a model class of its own.
    """
    reference = (getattr(config, "auto_map", None) or {}).get(auto_class.__name__)
    if reference is None:
        return False
    model_class = get_class_from_dynamic_module(reference, path)
    names = vars(sys.modules[model_class.__module__])
    give_ropes(names)
    for own in {model_class, type(config), *_own(names, model_class)}:
        if own not in _ADAPTED:
            _ADAPTED.add(own)
            _complete(own, model_class)
    return True


def _own(names: dict[str, Any], model_class: type) -> Iterator[type]:
    """Classes in the names of a file that are the checkpoint's own: defined there, or in a file beside it."""
    package = model_class.__module__.rpartition(".")[0]
    return (value for value in names.values() if isclass(value) and value.__module__.startswith(package))


def _complete(own: type, model_class: type) -> None:
    """Fill the gaps of a class, whatever it is."""
    if issubclass(own, PretrainedConfig) and not own.__module__.startswith("transformers."):
        complete_config(own)
    elif issubclass(own, GenerationConfig):
        complete_generation_config(own)
    elif issubclass(own, PreTrainedModel):
        _adapt_tying(own)
        if own is model_class:
            own.__init__ = _initialised(own.__init__)


def _initialised(own: Callable[..., None]) -> Callable[..., None]:
    """An ``__init__`` that ends with `post_init`, as transformers 5 requires, of layers that know their type."""

    @wraps(own)
    def __init__(self: PreTrainedModel, *args: Any, **kwargs: Any) -> None:
        own(self, *args, **kwargs)
        if type(self).__init__ is not __init__:  # of a subclass, which may have something left to do
            return
        _name_layer_types(self)
        # transformers makes a subclass of a model that prepares inputs for generation, with this same method
        if "all_tied_weights_keys" not in vars(self):
            self.post_init()

    return __init__


def _name_layer_types(model: PreTrainedModel) -> None:
    """Tell layers of transformers' own classes their type, which those of transformers 4 knew."""
    for module in model.modules():
        layers, config = getattr(module, "layers", None), getattr(module, "config", None)
        types = getattr(config, "layer_types", None)
        if isinstance(layers, nn.ModuleList) and types is not None:
            for layer, kind in zip(layers, types, strict=False):
                if not hasattr(layer, "attention_type"):
                    layer.attention_type = kind


def _adapt_tying(model_class: Any) -> None:
    """Tied names as a mapping, and a `tie_weights` that takes what transformers 5 hands to it."""
    listed, own = vars(model_class).get("_tied_weights_keys"), vars(model_class).get("tie_weights")
    if isinstance(listed, list):
        model_class._tied_weights_keys = property(lambda self: dict.fromkeys(listed, _embedding_name(self)))
    elif listed is None and own is not None:
        model_class._tied_weights_keys = property(_shared)
    if own is not None:
        model_class.tie_weights = forgiving(own)


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
