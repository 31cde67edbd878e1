"""Stand-in for Dream's sampler and its settings, which are checked by a method that takes less than transformers'."""

import torch
from torch import nn
from transformers import GenerationConfig


class DreamGenerationConfig(GenerationConfig):
    """Sets a few of transformers' attributes by itself, and not the others."""

    def __init__(self, **kwargs):
        self.temperature, self.top_p = kwargs.pop("temperature", 0.0), kwargs.pop("top_p", None)
        self.max_length, self.max_new_tokens = kwargs.pop("max_length", 20), kwargs.pop("max_new_tokens", None)
        self.eps, self.steps, self.alg = kwargs.pop("eps", 1e-3), kwargs.pop("steps", 512), kwargs.pop("alg", "origin")
        for name in ("mask_token_id", "pad_token_id", "bos_token_id", "eos_token_id"):
            setattr(self, name, kwargs.pop(name, None))
        self.transformers_version = kwargs.pop("transformers_version", None)
        for name, value in kwargs.items():
            setattr(self, name, value)
        self.validate(is_init=True)

    def validate(self, is_init=False):
        if self.steps < 1:
            raise ValueError(f"steps: expected at least 1, got {self.steps}")


class DreamGenerationMixin:
    """Not GenerationMixin: a denoising loop of its own."""

    @torch.no_grad()
    def diffusion_generate(self, inputs, max_new_tokens=4, **kwargs):
        mask = self.config.mask_token_id
        ids = nn.functional.pad(inputs, (0, max_new_tokens), value=mask)
        for _ in range(max_new_tokens):
            logits = self(ids, "full").logits
            logits = logits[:, [0, *range(ids.size(1) - 1)]]
            ids = torch.where(ids == mask, logits.argmax(dim=-1), ids)
        return ids
