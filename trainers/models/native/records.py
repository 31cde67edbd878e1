"""What is known of one kind of checkpoint: its config's entries, and its weights' names, in terms of transformers'.

One direction is written down, from the original to transformers; the other is derived from it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.core_model_loading import WeightConverter, WeightRenaming

from trainers.models.native.splitting import SplitRows

Entries = dict[str, Any]  # of a config.json
MISSING = object()


@dataclass(frozen=True)
class Entry:
    """One entry of the original's config.

    Attributes:
        native: what transformers' config calls it; empty: it is not handed on.
        default: what the original's code takes where the entry is missing; `MISSING`: it must be there.
        allowed: the values that transformers' class can do, if not all.
    """

    native: str = ""
    default: Any = MISSING
    allowed: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Native:
    r"""One kind of checkpoint that an architecture of transformers can be.

    Attributes:
        family: a name of `trainers.models.families.FAMILIES`.
        architecture: what the original's config.json names first.
        config, model: transformers' classes.
        entries: of the original's config.json, all that its code reads; `only`, `same`, `renamed` and `idle` help.
        names: a part of an original weight's name -> what it is called in transformers. Both are regular expressions
            of `transformers.core_model_loading`; ``\1`` stands for what the one group of the original matched.
        fused: an original name -> the names of what its rows are split into, from the top.
        derived: further entries of transformers' config, from those of the original with their defaults.
        tokenizer: the class that gives the same ids as the tokenizer code which such checkpoints bring.
    """

    family: str
    architecture: str
    config: type[PretrainedConfig]
    model: type[PreTrainedModel]
    entries: dict[str, Entry]
    names: dict[str, str] = field(default_factory=dict)
    fused: dict[str, list[str]] = field(default_factory=dict)
    derived: Callable[[Entries], Entries] = lambda values: {}
    tokenizer: type[PreTrainedTokenizerBase] | None = None

    def conversions(self) -> list[WeightRenaming | WeightConverter]:
        """From original names to transformers': what its loader takes, and reverses when it saves."""
        renamed = [WeightRenaming(original, native) for original, native in self.names.items()]
        split = [WeightConverter(original, list(parts), [SplitRows()]) for original, parts in self.fused.items()]
        return [*renamed, *split]


class Unsupported(ValueError):
    """What transformers' class cannot do, or what is not known of a checkpoint: the message names it."""


def only(**values: Any) -> dict[str, Entry]:
    """Entries that may have one value, which the original's code takes by itself where they are missing."""
    return {name: Entry("", value, (value,)) for name, value in values.items()}


def asked(**values: Any) -> dict[str, Entry]:
    """Entries that must be there with this value: the original's code takes another where they are missing."""
    return {name: Entry("", MISSING, (value,)) for name, value in values.items()}


def same(*names: str, **defaults: Any) -> dict[str, Entry]:
    """Entries of the same name in transformers: those that must be there, and those with a default."""
    return {name: Entry(name) for name in names} | {name: Entry(name, value) for name, value in defaults.items()}


def renamed(**names: str) -> dict[str, Entry]:
    """Entries that must be there, and what transformers calls them."""
    return {name: Entry(native) for name, native in names.items()}


def idle(names: Sequence[str]) -> dict[str, Entry]:
    """Entries that change no logit: how weights were drawn, kernels, losses of another trainer."""
    return dict.fromkeys(names, Entry("", None))
