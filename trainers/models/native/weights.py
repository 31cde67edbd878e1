"""Weights under their original names, into transformers' model and back, by transformers' own loader.

The loader renames, splits and joins weights by a list that belongs to the name of the model's class, and reverses that
list when it saves. Each record therefore has a subclass for reading and writing under the original's names, which does
nothing else; a model is of that class only meanwhile, and of transformers' own before and after. So a model that was
read is saved under transformers' names, and sharded files, dtypes, quantisation and device maps work as ever.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from transformers import PreTrainedModel
from transformers.conversion_mapping import register_checkpoint_conversion_mapping

from trainers.models.native.known import NATIVES
from trainers.models.native.records import Native, Unsupported


def read_weights(record: Native, path: str, **options: Any) -> PreTrainedModel:
    """The model of a checkpoint, of transformers' class.

    Args:
        record: of its kind.
        path: directory or hub id.
        options: of ``from_pretrained``; ``config`` is transformers' one.

    Raises:
        Unsupported: a weight that the record does not know, one that is missing, or one of another shape.
    """
    model, found = _in_original_names(record.architecture).from_pretrained(
        path, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    for kind, names in (
        ("has a weight that {} does not have", found["unexpected_keys"]),
        ("lacks a weight of {}", found["missing_keys"]),
        ("has a weight of another shape than {}", [name for name, *_ in found["mismatched_keys"]]),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise Unsupported(f"it {kind.format(record.model.__name__)}: {min(names)}{more}")
    model.__class__ = record.model
    del model._weight_conversions  # what was used to read it: it is saved under transformers' names
    return model


@contextmanager
def original_names(record: Native, model: PreTrainedModel) -> Iterator[None]:
    """While it lasts, ``model.save_pretrained`` writes weights under their original names."""
    assert type(model) is record.model
    kept = vars(model).pop("_weight_conversions", None)
    model.__class__ = _in_original_names(record.architecture)
    try:
        yield
    finally:
        model.__class__ = record.model
        if kept is not None:
            model._weight_conversions = kept


@cache
def _in_original_names(architecture: str) -> type[PreTrainedModel]:
    """The subclass that reads and writes under original names."""
    record = NATIVES[architecture]
    own = type(f"{architecture}As{record.model.__name__}", (record.model,), {"__module__": __name__})
    register_checkpoint_conversion_mapping(own.__name__, record.conversions())
    return own
