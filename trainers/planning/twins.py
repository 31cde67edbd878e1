"""What a checkpoint's own code calls its sizes, as an architecture of transformers that has the same matrices.

A *twin* is that architecture's config. No remote code is run to plan.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    Glm4MoeConfig,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from trainers.models.families import SETTLED, Nature, family_of

Entries = dict[str, Any]


def config_of(entries: Entries, file: Path) -> tuple[PretrainedConfig, Nature]:
    """The twin's config of a config.json's entries, and how it is to be read.

    Raises:
        KeyError: an entry is missing that its architecture needs.
        ValueError: an entry has a value that is not known, or the architecture is in code of its own.
    """
    # the family is that of the architecture, whether or not transformers knows its model_type
    family, record = family_of(PretrainedConfig(architectures=entries["architectures"]))
    nature = Nature(**entries[SETTLED]) if SETTLED in entries else record.nature
    if family in TWINS:
        return TWINS[family](entries), nature
    if "auto_map" in entries:
        raise ValueError(f"its architecture {entries['architectures'][0]} is in code of its own: expected a known one")
    return AutoConfig.from_pretrained(file), nature


def _sizes(entries: Entries) -> Entries:
    """The sizes that go by the same names everywhere."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    heads = entries.get("num_key_value_heads") or entries["num_attention_heads"]
    width = entries.get("head_dim") or entries["hidden_size"] // entries["num_attention_heads"]
    tied = entries.get("tie_word_embeddings", False)
    own = {name: entries[name] for name in names}
    return own | {"num_key_value_heads": heads, "head_dim": width, "tie_word_embeddings": tied}


def _llada(entries: Entries) -> PretrainedConfig:
    biased = [name for name in ("include_bias", "include_qkv_bias") if entries.get(name)]
    if biased:
        raise ValueError(f"{biased[0]}={entries[biased[0]]}: expected false, as in LLaDA-8B")
    width, heads = entries["d_model"], entries["n_heads"]
    return LlamaConfig(
        hidden_size=width,
        intermediate_size=entries.get("mlp_hidden_size") or entries["mlp_ratio"] * width,
        num_hidden_layers=entries["n_layers"],
        num_attention_heads=heads,
        num_key_value_heads=entries.get("n_kv_heads") or heads,
        vocab_size=entries.get("embedding_size") or entries["vocab_size"],
        tie_word_embeddings=entries.get("weight_tying", False),
    )


def _dream(entries: Entries) -> PretrainedConfig:
    return Qwen2Config(**_sizes(entries), intermediate_size=entries["intermediate_size"])


def _sdar(entries: Entries) -> PretrainedConfig:
    if "moe_intermediate_size" in entries:
        return _mixture(entries)
    return Qwen3Config(**_sizes(entries), intermediate_size=entries["intermediate_size"])


def _mixture(entries: Entries) -> PretrainedConfig:
    return Qwen3MoeConfig(
        **_sizes(entries),
        moe_intermediate_size=entries.get("moe_intermediate_size") or entries["expert_intermediate_size"],
        num_experts=entries["num_experts"],
        num_experts_per_tok=entries["num_experts_per_tok"],
    )


def _llada2(entries: Entries) -> PretrainedConfig:
    """Experts that all positions go to, and dense layers at the bottom, as in Glm4Moe."""
    return Glm4MoeConfig(
        **_sizes(entries),
        intermediate_size=entries.get("intermediate_size") or entries["hidden_size"],
        moe_intermediate_size=entries["moe_intermediate_size"],
        n_routed_experts=entries["num_experts"],
        num_experts_per_tok=entries["num_experts_per_tok"],
        n_shared_experts=entries.get("num_shared_experts") or 0,
        first_k_dense_replace=entries.get("first_k_dense_replace", 0),
        use_qk_norm=entries.get("use_qk_norm", False),
    )


# family -> how its config becomes that of an architecture of transformers with the same matrices
TWINS: dict[str, Callable[[Entries], PretrainedConfig]] = {
    "llada": _llada,
    "llada_moe": _mixture,
    "llada2": _llada2,
    "dream": _dream,
    "sdar": _sdar,
}
