"""LLaDA-MoE (2509.24389): a Qwen3-MoE that sees both ways. Its norms of queries and keys are per head, so it is no
OLMoE, and the weights of the chosen experts do not sum to 1, whatever its config says."""

from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from trainers.models.native.records import Entries, Entry, Native, Unsupported, asked, idle, only, renamed, same
from trainers.models.native.shapes import ROPE, SIZES, heads


def _derived(values: Entries) -> Entries:
    if values["rope_theta"] is None and not values["rope_parameters"]:
        raise Unsupported("its config has no entry 'rope_theta'")
    dense = [layer for layer, mixed in enumerate(values["moe_layer_freq"] or []) if not mixed]
    return heads(values) | {"norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": dense}


LLADA_MOE = Native(
    family="llada_moe",
    architecture="LLaDAMoEModelLM",
    config=Qwen3MoeConfig,
    model=Qwen3MoeForCausalLM,
    entries={
        **SIZES,
        **renamed(expert_intermediate_size="moe_intermediate_size"),
        "dense_intermediate_size": Entry("intermediate_size", None),
        **ROPE,
        "rope_theta": Entry("rope_theta", None),
        **same("num_experts", "num_experts_per_tok"),
        **same(rms_norm_eps=1e-5, max_position_embeddings=4096, attention_bias=False),
        **same(router_aux_loss_coef=0.01),
        "moe_layer_freq": Entry("", ()),
        **asked(qk_layernorm=True, moe_router_score_function="softmax", partial_rotary_factor=1),
        **only(clip_qkv=None, shared_expert_intermediate_size=None, routed_scaling_factor=1),
        "moe_router_enable_expert_bias": Entry("", None, (None, False)),
        **idle(("norm_topk_prob", "output_router_logits", "router_num_group", "router_topk_group")),
    },
    derived=_derived,
)
