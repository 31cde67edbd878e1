"""Dream (2508.15487): a Qwen2 that sees both ways, under the same names."""

from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from trainers.models.native.records import Native, idle, only, same
from trainers.models.native.shapes import ROPE, SIZES, heads

DREAM = Native(
    family="dream",
    architecture="DreamModel",
    config=Qwen2Config,
    model=Qwen2ForCausalLM,
    entries={
        **SIZES,
        **ROPE,
        **same("intermediate_size"),
        **only(use_sliding_window=False, use_mrope=False),
        **idle(("sliding_window", "max_window_layers")),
    },
    derived=heads,
    tokenizer=Qwen2Tokenizer,
)
