"""Sizes of a checkpoint whose own code has other names for them, as those of the architecture of transformers that it
is read into (`trainers.models.native`). No remote code is run to plan."""

from transformers import AutoConfig, PretrainedConfig

from trainers.models.families import SETTLED, Nature, family_of, settled_nature
from trainers.models.native.configs import native_config
from trainers.models.native.known import record_of
from trainers.models.native.records import Entries


def config_of(entries: Entries, place: str) -> tuple[PretrainedConfig, str, Nature]:
    """Transformers' config of a config.json's entries, its family, and how it is to be read.

    Args:
        entries: of the config.json.
        place: where it lies, as ``from_pretrained`` takes it.

    Raises:
        ValueError: an entry is missing that its architecture needs, or has a value that is not known, or the
            architecture is in code of its own.
    """
    # the family is that of the architecture, whether or not transformers knows its model_type
    told = {SETTLED: entries[SETTLED]} if SETTLED in entries else {}
    name, family = family_of(PretrainedConfig(architectures=entries["architectures"], **told))
    nature = settled_nature(entries[SETTLED]) if told else family.nature
    record = record_of(entries)
    if record is not None:
        return native_config(record, entries, complete=False), name, nature
    if "auto_map" in entries:
        raise ValueError(f"its architecture {entries['architectures'][0]} is in code of its own: expected a known one")
    return AutoConfig.from_pretrained(place), name, nature
