"""How a model is to be read, once its files, its family and its user have spoken."""

from dataclasses import replace

from transformers import PretrainedConfig

from trainers.models.caching import RULES
from trainers.models.embedded import place_of
from trainers.models.families import SETTLED, Family, Nature, family_of, nature_of, said_block_length
from trainers.models.native.reading import read_entries
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError


def block_length_of(name: str, attention: str | None = None) -> int | None:
    """Tokens of a block of a named checkpoint, by its config alone; None: it has no blocks, or nobody says.

    Args:
        name: as model.name_or_path has it.
        attention: as model.attention has it.
    """
    try:
        entries = read_entries(place_of(name))
        told = PretrainedConfig(architectures=entries.get("architectures"))
        setattr(told, SETTLED, entries.get(SETTLED))
        _, family = family_of(told)
        blocks = (attention or nature_of(told, family).attention) == "block_causal"
    except (OSError, ValueError, TypeError):
        return None  # whoever loads it says what is wrong
    return said_block_length(entries, family) if blocks else None


def as_told(
    nature: Nature, family: Family, config: PretrainedConfig, arguments: ModelArguments, block_length: int | None
) -> Nature:
    """With what the user's options say in place of what the checkpoint says."""
    if arguments.logit_shift is not None:
        nature = replace(nature, logit_shift=arguments.logit_shift)
    if (arguments.attention or nature.attention) == "bidirectional":
        return replace(nature, attention="bidirectional", prompt_in_blocks=False, block_length=None)
    if block_length is None:
        said = said_block_length(config.to_dict(), family)
        raise ConfigError(
            "model.attention='block_causal': needs generation.block_length, the tokens of a block"
            + (f"; this checkpoint's is {said}" if said else "")
        )
    if nature.block_length not in (None, block_length):
        raise ConfigError(
            f"generation.block_length={block_length}: expected {nature.block_length}, with which "
            f"{arguments.model_name_or_path!r} was trained"
        )
    if nature.logit_shift:
        raise ConfigError(
            "model.logit_shift=true: a block-causal model cannot have shifted logits, the first token of a block "
            "would be predicted from outside of it; set false, or model.attention=bidirectional"
        )
    kernel = config._attn_implementation
    if kernel not in RULES:
        raise ConfigError(
            f"model.attn_implementation={kernel!r}: expected {' or '.join(RULES)} for model.attention=block_causal"
        )
    return replace(nature, attention="block_causal", block_length=block_length)
