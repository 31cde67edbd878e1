"""Stand-in for LLaDA-MoE: bidirectional, a mixture of experts, a mask of padding that is made additive."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, MoeCausalLMOutputWithPast

from .configuration_llada_moe import LLaDAConfig
from .parts import Experts, Layer, frequencies


class LLaDAMoEPreTrainedModel(PreTrainedModel):
    config_class = LLaDAConfig
    base_model_prefix = "model"
    _supports_sdpa = True


class LLaDAMoEModel(LLaDAMoEPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        width, experts = config.hidden_size, (config.expert_intermediate_size, config.num_experts)
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.layers = nn.ModuleList(
            Layer(width, config.num_attention_heads, Experts(width, *experts, config.num_experts_per_tok))
            for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.RMSNorm(width)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, inputs_embeds=None, **kwargs):
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = torch.arange(hidden.size(1), device=hidden.device).unsqueeze(0)
        mask = None
        if attention_mask is not None and attention_mask.ndim == 2:
            least = torch.finfo(hidden.dtype).min
            mask = (1.0 - attention_mask.to(hidden.dtype))[:, None, None, :] * least
        elif attention_mask is not None:
            mask = attention_mask
        frequency = frequencies(self.config.hidden_size // self.config.num_attention_heads)
        for layer in self.layers:
            hidden = layer(hidden, position_ids, frequency, mask)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden))


class LLaDAMoEModelLM(LLaDAMoEPreTrainedModel, GenerationMixin):
    _tied_weights_keys = ["lm_head.weight"]  # noqa: RUF012  # what transformers 4 asked for

    def __init__(self, config):
        super().__init__(config)
        self.model = LLaDAMoEModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def set_input_embeddings(self, value):
        self.model.embed_tokens = value

    def get_output_embeddings(self):
        return self.lm_head

    def get_decoder(self):
        return self.model

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        inputs_embeds=None,
        past_key_values=None,
        **kwargs,
    ):
        assert past_key_values is None, "no key-value cache for LLaDA-MoE"
        outputs = self.model(input_ids, attention_mask, position_ids, inputs_embeds)
        return MoeCausalLMOutputWithPast(logits=self.lm_head(outputs[0]))
