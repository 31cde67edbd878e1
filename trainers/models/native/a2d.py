"""Llama, Qwen2 and Qwen3 that were made bidirectional with their names kept (the project dllm calls them A2D)."""

from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from trainers.models.native.records import Entry, Native, idle, only, same
from trainers.models.native.shapes import ROPE, SIZES, heads


def _record(name: str, config: type[PretrainedConfig], model: type[PreTrainedModel], **more: Entry) -> Native:
    return Native(
        family="a2d",
        architecture=f"A2D{name}LMHeadModel",
        config=config,
        model=model,
        entries={
            **SIZES,
            **ROPE,
            **same("intermediate_size"),
            **only(use_sliding_window=False),
            **idle(("sliding_window", "max_window_layers", "layer_types", "pretraining_tp")),
            **more,
        },
        derived=heads,
    )


A2D_LLAMA = _record(
    "Llama", LlamaConfig, LlamaForCausalLM, **same(attention_bias=False, mlp_bias=False, max_position_embeddings=2048)
)
A2D_QWEN2 = _record("Qwen2", Qwen2Config, Qwen2ForCausalLM)
A2D_QWEN3 = _record("Qwen3", Qwen3Config, Qwen3ForCausalLM, **same(attention_bias=False))
