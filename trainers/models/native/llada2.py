"""LLaDA2 (2512.15745): a GLM-4-MoE that sees blocks. Sigmoid router with a bias that only chooses, groups of experts,
shared experts, dense layers at the bottom, norms of queries and keys, rotary positions on a part of each head."""

from transformers import Glm4MoeConfig, Glm4MoeForCausalLM

from trainers.models.native.records import Entries, Entry, Native, idle, only, same
from trainers.models.native.shapes import ROPE, SIZES, heads


def _derived(values: Entries) -> Entries:
    return heads(values) | {
        "intermediate_size": values["intermediate_size"] or values["hidden_size"],
        "use_qk_norm": True,
        "norm_topk_prob": values["num_experts_per_tok"] > 1,
        "num_nextn_predict_layers": 0,
        "attention_bias": False,
    }


LLADA2 = Native(
    family="llada2",
    architecture="LLaDA2MoeModelLM",
    config=Glm4MoeConfig,
    model=Glm4MoeForCausalLM,
    entries={
        **SIZES,
        **same(rms_norm_eps=1e-5, max_position_embeddings=16_384, attention_dropout=0.1),
        **same("moe_intermediate_size", "num_experts_per_tok"),
        "num_experts": Entry("n_routed_experts", 16),
        "num_shared_experts": Entry("n_shared_experts", 0),
        "intermediate_size": Entry("", None),
        **same(n_group=8, topk_group=4, routed_scaling_factor=2.5, first_k_dense_replace=0),
        **ROPE,
        **same(partial_rotary_factor=0.5),
        **only(use_bias=False, use_qkv_bias=False, use_rmsnorm=True, score_function="sigmoid"),
        **only(norm_head=False, norm_softmax=False, use_sliding_window=False),
        **only(using_split_qkv_in_self_attention=False),
        **idle(
            (
                "embedding_dropout",
                "max_window_layers",
                "moe_router_enable_expert_bias",
                "norm_topk_prob",
                "output_dropout",
                "output_router_logits",
                "rotary_dim",
                "router_dtype",
                "sliding_window",
                "use_qk_norm",
            )
        ),
    },
    names={
        r"^model\.word_embeddings\.": "model.embed_tokens.",
        r"^model\.layers\.(\d+)\.attention\.dense\.": r"model.layers.\1.self_attn.o_proj.",
        r"^model\.layers\.(\d+)\.attention\.query_layernorm\.": r"model.layers.\1.self_attn.q_norm.",
        r"^model\.layers\.(\d+)\.attention\.key_layernorm\.": r"model.layers.\1.self_attn.k_norm.",
        r"^model\.layers\.(\d+)\.mlp\.gate\.expert_bias": r"model.layers.\1.mlp.gate.e_score_correction_bias",
    },
    fused={
        "attention.query_key_value.weight": [
            "self_attn.q_proj.weight",
            "self_attn.k_proj.weight",
            "self_attn.v_proj.weight",
        ],
    },
    derived=_derived,
)
