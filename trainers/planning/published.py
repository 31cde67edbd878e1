"""Sizes of the published checkpoints that a plan can be made for without a file: the entries of their config.json that
say how large they are. Anything else is read from a directory, or from the hub."""

from trainers.benchmarking.shapes import SHAPES
from trainers.models.native.records import Entries
from trainers.settings.hub_names import HUB_IDS

_LLADA = SHAPES["LLaDA-8B"]
_SDAR: Entries = {
    "architectures": ["SDARForCausalLM"],
    "block_size": 4,
    "head_dim": 128,
    "num_key_value_heads": 8,
    "vocab_size": 1187 * 128,
    "tie_word_embeddings": False,
}

# short name -> entries under their original names
_BY_SHORT_NAME: dict[str, Entries] = {
    "llada-8b": {
        "architectures": ["LLaDAModelLM"],
        "d_model": _LLADA.hidden_size,
        "mlp_hidden_size": _LLADA.intermediate_size,
        "n_layers": _LLADA.num_hidden_layers,
        "n_heads": _LLADA.num_attention_heads,
        "n_kv_heads": _LLADA.num_key_value_heads,
        "embedding_size": _LLADA.vocab_size,
        "weight_tying": False,
    },
    # Dream-v0-7B (2508.15487) has the sizes of Qwen2.5-7B, from which it was made (2412.15115, table 1)
    "dream-7b": {
        "architectures": ["DreamModel"],
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 1188 * 128,
        "tie_word_embeddings": False,
    },
    # SDAR (2510.06303) was made from Qwen3 (2505.09388, table 1). The tables of 4B are not tied, as
    # training/model/SDAR-4B-Chat/config.json of JetAstra/SDAR has it; those of the others are taken to be like it.
    "sdar-1.7b": _SDAR
    | {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "sdar-4b": _SDAR
    | {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
    "sdar-8b": _SDAR
    | {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
    # llada2_mini/config.json of the model configs of inclusionAI/dFactory
    "llada2-mini": {
        "architectures": ["LLaDA2MoeModelLM"],
        "hidden_size": 2048,
        "intermediate_size": 5120,
        "moe_intermediate_size": 512,
        "num_hidden_layers": 20,
        "first_k_dense_replace": 1,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "num_shared_experts": 1,
        "vocab_size": 1228 * 128,
        "tie_word_embeddings": False,
    },
}
# hub id -> entries
PUBLISHED: dict[str, Entries] = {HUB_IDS[name]: entries for name, entries in _BY_SHORT_NAME.items()}
