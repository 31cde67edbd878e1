"""LLaDA (2502.09992) and iLLaDA: a Llama with names of its own. Its code can do more than its checkpoints ask for."""

from transformers import LlamaConfig, LlamaForCausalLM

from trainers.models.native.records import Entries, Entry, Native, Unsupported, asked, idle, only, renamed, same


def _derived(values: Entries) -> Entries:
    width, heads = values["d_model"], values["n_heads"]
    # rows of the table beyond the vocabulary belong to no token
    rows = values["embedding_size"] or values["vocab_size"]
    if not rows:
        raise Unsupported("its config has no entry 'vocab_size'")
    return {
        "num_key_value_heads": values["n_kv_heads"] or heads,
        "intermediate_size": values["mlp_hidden_size"] or values["mlp_ratio"] * width,
        "vocab_size": rows,
    }


LLADA = Native(
    family="llada",
    architecture="LLaDAModelLM",
    config=LlamaConfig,
    model=LlamaForCausalLM,
    entries={
        **renamed(d_model="hidden_size", n_layers="num_hidden_layers", n_heads="num_attention_heads"),
        "n_kv_heads": Entry("", None),
        "mlp_hidden_size": Entry("", None),
        "mlp_ratio": Entry("", 4),
        "vocab_size": Entry("", None),
        "embedding_size": Entry("", None),
        "weight_tying": Entry("tie_word_embeddings", True),
        "max_sequence_length": Entry("max_position_embeddings", 1024),
        "init_std": Entry("initializer_range", 0.02),
        **same(rms_norm_eps=1e-5, rope_theta=10_000.0, rope_parameters=None, attention_dropout=0.1),
        **asked(block_type="llama", activation_type="silu", layer_norm_type="rms", rope=True),
        **only(
            alibi=False,
            attention_layer_norm=False,
            block_group_size=1,
            clip_qkv=None,
            include_bias=False,
            input_emb_norm=False,
            layer_norm_with_affine=True,
            scale_logits=False,
        ),
        "bias_for_layer_norm": Entry("", None, (None, False)),
        "include_qkv_bias": Entry("", False, (None, False)),
        "multi_query_attention": Entry("", None, (None, False)),
        "residual_dropout": Entry("", 0.1, (0,)),
        "embedding_dropout": Entry("", 0.1, (0,)),
        **idle(
            (
                "alibi_bias_max",
                "attention_layer_norm_with_affine",
                "flash_attention",
                "flash_attn_varlen",
                "init_cutoff_factor",
                "init_device",
                "init_fn",
                "precision",
                "rope_full_precision",
            )
        ),
    },
    names={
        r"^model\.transformer\.wte\.": "model.embed_tokens.",
        r"^model\.transformer\.ln_f\.": "model.norm.",
        r"^model\.transformer\.ff_out\.": "lm_head.",
        r"^model\.transformer\.blocks\.(\d+)\.attn_norm\.": r"model.layers.\1.input_layernorm.",
        r"^model\.transformer\.blocks\.(\d+)\.ff_norm\.": r"model.layers.\1.post_attention_layernorm.",
        r"^model\.transformer\.blocks\.(\d+)\.q_proj\.": r"model.layers.\1.self_attn.q_proj.",
        r"^model\.transformer\.blocks\.(\d+)\.k_proj\.": r"model.layers.\1.self_attn.k_proj.",
        r"^model\.transformer\.blocks\.(\d+)\.v_proj\.": r"model.layers.\1.self_attn.v_proj.",
        r"^model\.transformer\.blocks\.(\d+)\.attn_out\.": r"model.layers.\1.self_attn.o_proj.",
        r"^model\.transformer\.blocks\.(\d+)\.ff_proj\.": r"model.layers.\1.mlp.gate_proj.",
        r"^model\.transformer\.blocks\.(\d+)\.up_proj\.": r"model.layers.\1.mlp.up_proj.",
        r"^model\.transformer\.blocks\.(\d+)\.ff_out\.": r"model.layers.\1.mlp.down_proj.",
    },
    derived=_derived,
)
