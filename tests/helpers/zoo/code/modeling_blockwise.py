"""Stand-in for Fast-dLLM v2: it attends in blocks of 32 tokens, counted from the start, whatever it is told."""

import torch
from transformers import Qwen2ForCausalLM

from .configuration_blockwise import BlockwiseConfig


class BlockwiseForCausalLM(Qwen2ForCausalLM):
    config_class = BlockwiseConfig

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, inputs_embeds=None, **kwargs):
        given = input_ids if inputs_embeds is None else inputs_embeds
        block = torch.arange(given.size(1), device=given.device) // self.config.bd_size
        mask = (block.unsqueeze(0) <= block.unsqueeze(1))[None, None]
        if attention_mask is not None and attention_mask.ndim == 2:
            mask = mask & attention_mask.bool()[:, None, None, :]
        return super().forward(
            input_ids=input_ids, attention_mask=mask, position_ids=position_ids, inputs_embeds=inputs_embeds
        )
