"""Stand-in for a Llama that was made bidirectional: its names and layers, and a mask of padding in place of theirs."""

import torch
from transformers import LlamaForCausalLM, LlamaModel

from .configuration_a2d_llama import A2DLlamaConfig


class A2DLlamaModel(LlamaModel):
    def forward(self, input_ids=None, attention_mask=None, inputs_embeds=None, past_key_values=None, **kwargs):
        rows, length = (input_ids if inputs_embeds is None else inputs_embeds).shape[:2]
        if attention_mask is None:
            stored = 0 if past_key_values is None else past_key_values.get_seq_length()
            attention_mask = torch.ones(rows, stored + length, device=self.device)
        if attention_mask.ndim == 2:
            attention_mask = attention_mask[:, None, None, :].bool().expand(rows, 1, length, -1)
        return super().forward(
            input_ids, attention_mask, inputs_embeds=inputs_embeds, past_key_values=past_key_values, **kwargs
        )


class A2DLlamaLMHeadModel(LlamaForCausalLM):
    config_class = A2DLlamaConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = A2DLlamaModel(config)
        self.post_init()
