"""The original's config.json as a config of transformers, without its own code."""

from copy import deepcopy
from functools import cache
from typing import Any

from transformers import PretrainedConfig

from trainers.models.families import SETTLED
from trainers.models.native.records import MISSING, Entries, Entry, Native, Unsupported

# handed on under the same name where they are there: what tokens are for, the dtype of the weights, what was settled
CARRIED = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "initializer_range", SETTLED)
DTYPES = ("dtype", "torch_dtype")  # of transformers 5, and before
# what is written by transformers or an uploader beside what the model's code reads
BESIDE = ("use_cache", "attn_implementation", "tokenizer_class", "use_return_dict", "auto_map", *CARRIED, *DTYPES)


def native_config(record: Native, entries: Entries, complete: bool = True) -> PretrainedConfig:
    """Transformers' config of a checkpoint.

    Args:
        record: of its kind.
        entries: of its config.json.
        complete: whether an entry that must have one value has to be there; without, only its presence with another
            one is refused: what suffices to know its sizes.

    Raises:
        Unsupported: an entry is missing, is not known, or asks for what transformers' class cannot do.
    """
    values: Entries = {}
    for name, entry in record.entries.items():
        values[name] = _value(name, entry, entries, complete)
    strange = sorted(name for name in entries if name not in record.entries and _says_something(name, entries[name]))
    if strange:
        found = f"{strange[0]}={entries[strange[0]]!r}"
        raise Unsupported(f"its config has {found}, which is not known of {record.family}")
    handed = ((entry.native, values[name]) for name, entry in record.entries.items() if entry.native)
    known: Entries = {name: value for name, value in handed if value is not None}
    known |= {name: entries[name] for name in CARRIED if entries.get(name) is not None}
    dtype = next((entries[name] for name in DTYPES if entries.get(name) is not None), None)
    known |= record.derived(values) | ({} if dtype is None else {"dtype": dtype})
    known |= {"architectures": [record.model.__name__], "is_causal": False, "use_cache": False}
    return record.config(**deepcopy(known))  # which writes into what is handed to it


def _value(name: str, entry: Entry, entries: Entries, complete: bool) -> Any:
    value = entries.get(name, entry.default)
    if value is MISSING:
        if entry.allowed and not complete:
            return entry.allowed[0]
        raise Unsupported(f"its config has no entry {name!r}")
    if entry.allowed and value not in entry.allowed and (complete or name in entries):
        expected = " or ".join(map(repr, entry.allowed))
        raise Unsupported(f"its config has {name}={value!r}, expected {expected}")
    if value is None and entry.default is not None and None not in entry.allowed:
        raise Unsupported(f"its config has {name}=None, expected a value")
    return value


def _says_something(name: str, value: Any) -> bool:
    """Whether an entry that nobody reads could be one that something new is turned on by."""
    return bool(value) and not name.startswith("_") and name not in BESIDE and name not in _of_every_config()


@cache
def _of_every_config() -> frozenset[str]:
    return frozenset(PretrainedConfig().to_dict())
