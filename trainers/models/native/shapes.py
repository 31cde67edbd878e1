"""Entries that the relatives of Qwen share, with what their code takes where one is missing."""

from trainers.models.native.records import Entries, Entry, same

SIZES: dict[str, Entry] = {
    **same("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"),
    **same(
        hidden_act="silu",
        max_position_embeddings=32_768,
        rms_norm_eps=1e-6,
        attention_dropout=0.0,
        tie_word_embeddings=False,
    ),
    "num_key_value_heads": Entry("", None),
    "head_dim": Entry("", None),
}
# transformers 4 writes the first two, transformers 5 the third
ROPE: dict[str, Entry] = same(rope_theta=10_000.0, rope_scaling=None, rope_parameters=None)


def heads(values: Entries) -> Entries:
    """Heads of keys and values, and the width of a head; where they are not said, the weights' shapes must agree."""
    width = values["head_dim"] or values["hidden_size"] // values["num_attention_heads"]
    return {"num_key_value_heads": values["num_key_value_heads"] or values["num_attention_heads"], "head_dim": width}
