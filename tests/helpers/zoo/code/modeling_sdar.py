"""Stand-in for SDAR: block-causal, its mask straight into the kernel, and a cache that is written to on demand.

In train mode it is another function: it noises the text itself, wants labels, and returns a loss and no logits. Its
attention then takes another kernel, with another mask.
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import LossKwargs

from .configuration_sdar import SDARConfig
from .parts import MLP, Attention, Layer, frequencies


class KwargsForCausalLM(LossKwargs):
    """What transformers 4 hands through to the loss."""


class SDARPreTrainedModel(PreTrainedModel):
    config_class = SDARConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True


class SDARAttention(Attention):
    def forward(self, hidden, positions, frequency, mask=None, remember=None):
        if self.training:  # the mask of noised and clean text side by side, which is not what it was given
            mask = None if mask is None else mask.flip(-1)
        return super().forward(hidden, positions, frequency, mask, remember)


class SDARModel(SDARPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        width = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, width, config.pad_token_id)
        self.layers = nn.ModuleList(
            Layer(width, config.num_attention_heads, MLP(width, config.intermediate_size))
            for _ in range(config.num_hidden_layers)
        )
        for layer in self.layers:
            layer.self_attn = SDARAttention(width, config.num_attention_heads)
        self.norm = nn.RMSNorm(width)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self):
        return self.embed_tokens

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        store_kv=False,
    ):
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        stored = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None:
            position_ids = torch.arange(stored, stored + hidden.size(1), device=hidden.device).unsqueeze(0)
        mask = None if attention_mask is None else attention_mask.bool()
        frequency = frequencies(self.config.hidden_size // self.config.num_attention_heads)
        for number, layer in enumerate(self.layers):

            def remember(keys, values, number=number):
                if past_key_values is None:
                    return keys, values
                if store_kv:
                    return past_key_values.update(keys, values, number)
                if len(past_key_values) <= number:
                    return keys, values
                before = past_key_values[number]
                return torch.cat([before[0], keys], dim=-2), torch.cat([before[1], values], dim=-2)

            context = (position_ids, frequency, mask, remember)
            if self.gradient_checkpointing and self.training:
                hidden = self._gradient_checkpointing_func(layer.__call__, hidden, *context)
            else:
                hidden = layer(hidden, *context)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden), past_key_values=past_key_values)


class SDARForCausalLM(SDARPreTrainedModel, GenerationMixin):
    _tied_weights_keys = ["lm_head.weight"]  # noqa: RUF012  # what transformers 4 asked for

    def __init__(self, config):
        super().__init__(config)
        self.model = SDARModel(config)
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

    def noised_loss(self, input_ids, position_ids, labels):
        places = position_ids.masked_fill(position_ids.diff(dim=1, prepend=position_ids[:, :1]) < 0, 0)
        hidden = self.model(input_ids, None, places).last_hidden_state
        loss = nn.functional.cross_entropy(self.lm_head(hidden).flatten(0, 1), labels.flatten())
        return CausalLMOutputWithPast(loss=loss, logits=None)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        logits_to_keep=0,
        **kwargs,
    ):
        if self.training:
            return self.noised_loss(input_ids, position_ids, labels)
        outputs = self.model(
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache, **kwargs
        )
        logits = self.lm_head(outputs.last_hidden_state[:, -logits_to_keep:, :])
        return CausalLMOutputWithPast(logits=logits, past_key_values=outputs.past_key_values)
