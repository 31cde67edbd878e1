"""SDAR (2510.06303) and TraDo (2509.06949): a Qwen3, or a Qwen3-MoE, that sees blocks, under the same names."""

from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from trainers.models.native.records import Entries, Entry, Native, idle, only, same
from trainers.models.native.shapes import ROPE, SIZES, heads

SHARED: dict[str, Entry] = {
    **SIZES,
    **ROPE,
    **same(attention_bias=False),
    **only(use_sliding_window=False),
    "block_size": Entry("block_size", None),
    **idle(
        (
            "debug",
            "ep_size",
            "fuse_cross_entropy",
            "max_window_layers",
            "micro_forward",
            "skip_checkpoint",
            "sliding_window",
            "use_deepep",
        )
    ),
}


def _mixture(values: Entries) -> Entries:
    return heads(values) | {"mlp_only_layers": values["mlp_only_layers"] or []}


SDAR = Native(
    family="sdar",
    architecture="SDARForCausalLM",
    config=Qwen3Config,
    model=Qwen3ForCausalLM,
    entries={**SHARED, **same("intermediate_size")},
    derived=heads,
    tokenizer=Qwen2Tokenizer,
)
SDAR_MOE = Native(
    family="sdar",
    architecture="SDARMoeForCausalLM",
    config=Qwen3MoeConfig,
    model=Qwen3MoeForCausalLM,
    entries={
        **SHARED,
        **same("moe_intermediate_size", "num_experts", "num_experts_per_tok"),
        **same(intermediate_size=6144, norm_topk_prob=False, decoder_sparse_step=1, router_aux_loss_coef=0.001),
        "mlp_only_layers": Entry("", None),
        **idle(("output_router_logits",)),
    },
    derived=_mixture,
    tokenizer=Qwen2Tokenizer,
)
