"""Options of TRL that this project would otherwise silently ignore: refused, each with its reason."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from trl import GRPOConfig, SFTConfig

from trainers.settings.options import refusal

NO_HF_GENERATE = "completions come from the diffusion sampler, not from transformers' generate()"
NO_TOOLS = "a diffusion sampler fills one canvas; there are no tool-calling turns"
OWN_HEAD = "the scorer projects the masked positions itself, past TRL's patched head"
OWN_MODEL = "trainers/models/loading.py builds the model: set model.dtype, model.attn_implementation, ... instead"
FIXED_CANVAS = "the canvas has a fixed length and EOS fills its tail: set generation.max_completion_length"
NO_ENTROPY_TERM = "entropies are measured here without a gradient"
OWN_FORMAT = "prompts are in the model's own format: see task.chat_template, or load_policy(..., chat_template=...)"
NO_LIGER = "its kernels are written for causal models and deprecated by TRL"

# GRPO options that a diffusion sampler cannot honour: name -> reason. Refused rather than ignored.
UNSUPPORTED = {
    "use_vllm": "vLLM decodes left to right",
    "top_p": "the loss scores the untruncated distribution: use generation.temperature",
    "top_k": "the loss scores the untruncated distribution: use generation.temperature",
    "min_p": "the loss scores the untruncated distribution: use generation.temperature",
    "repetition_penalty": "it needs a left-to-right history: use generation.temperature",
    "generation_kwargs": NO_HF_GENERATE,
    "cache_implementation": NO_HF_GENERATE,
    "use_transformers_continuous_batching": NO_HF_GENERATE,
    "transformers_continuous_batching_config": NO_HF_GENERATE,
    "use_transformers_paged": NO_HF_GENERATE,
    "max_tool_calling_iterations": NO_TOOLS,
    "cast_lm_head_to_fp32": OWN_HEAD,
    "use_liger_kernel": NO_LIGER,
    "chat_template_kwargs": OWN_FORMAT,
    "pad_to_multiple_of": FIXED_CANVAS,
    "entropy_coef": NO_ENTROPY_TERM,
    "use_adaptive_entropy": NO_ENTROPY_TERM,
    "neftune_noise_alpha": "noise in the embeddings moves the policy ratio away from 1 without any update",
}

UNSUPPORTED_SFT = {
    "packing": FIXED_CANVAS,
    "eval_packing": FIXED_CANVAS,
    "padding_free": FIXED_CANVAS,
    "pad_to_multiple_of": FIXED_CANVAS,
    "loss_type": "the loss is the diffusion bound: see section loss",
    "use_liger_kernel": NO_LIGER,
    "assistant_only_loss": "the loss is that of the completion: of messages, that of the last one",
    "chat_template_path": OWN_FORMAT,
    "eos_token": OWN_FORMAT,
    "dataset_text_field": "a text alone does not say where the completion begins: set columns prompt and completion",
    "dataset_kwargs": "texts are tokenised by the trainer, in the model's own format",
}

# Of a config file, whose section model says how a model is loaded. In Python a model that is named takes them.
UNSUPPORTED_IN_FILES = {"model_init_kwargs": OWN_MODEL}


def check_supported(args: GRPOConfig | SFTConfig) -> None:
    """Refuse options of TRL that this project would otherwise silently ignore.

    Args:
        args: A trainer config, also one that was changed after it was built.

    Raises:
        ConfigError: An option of `UNSUPPORTED` (GRPO) or `UNSUPPORTED_SFT` is set away from its default.
    """
    refuse(args, UNSUPPORTED_SFT if isinstance(args, SFTConfig) else UNSUPPORTED)


def refuse(args: Any, unsupported: Mapping[str, str]) -> None:
    """Raise ConfigError for an option, name -> reason, that is set away from its default."""
    for declared in fields(args):
        # None beside the default: TRL itself resolves pad_to_multiple_of="auto" to None
        if declared.name in unsupported and getattr(args, declared.name) not in (declared.default, None):
            raise refusal(args, declared.name, f"not supported: {unsupported[declared.name]}")
