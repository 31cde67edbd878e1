"""Stand-in for LLaDA2: block-causal, and takes who sees whom as (B, 1, N, N) alone.

As remote code for transformers 4 does, it asks transformers and a cache for things that 5 no longer has, and keeps the
frequencies of its rotary embedding in a buffer that is not saved and that its own _init_weights does not know.
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, MoeCausalLMOutputWithPast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.utils.import_utils import is_torch_fx_available

from .configuration_llada2_moe import LLaDA2MoeConfig
from .parts import Experts, Layer

TRACEABLE = is_torch_fx_available()


class LLaDA2MoeRotary(nn.Module):
    def __init__(self, config):
        super().__init__()
        frequency, self.scale = ROPE_INIT_FUNCTIONS["default"](config, None)
        self.register_buffer("inv_freq", frequency, persistent=False)


class LLaDA2MoePreTrainedModel(PreTrainedModel):
    config_class = LLaDA2MoeConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    supports_gradient_checkpointing = True

    def _init_weights(self, module):
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data.normal_(std=self.config.initializer_range)


class LLaDA2MoeModel(LLaDA2MoePreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        width, experts = config.hidden_size, (config.moe_intermediate_size, config.num_experts)
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        self.layers = nn.ModuleList(
            Layer(width, config.num_attention_heads, Experts(width, *experts, config.num_experts_per_tok))
            for _ in range(config.num_hidden_layers)
        )
        self.norm, self.rotary_emb = nn.RMSNorm(width), LLaDA2MoeRotary(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self):
        return self.word_embeddings

    def set_input_embeddings(self, value):
        self.word_embeddings = value

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        **kwargs,
    ):
        hidden = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        rows, length = hidden.shape[:2]
        stored = past_key_values.get_usable_length(length) if past_key_values is not None else 0
        if attention_mask is None or attention_mask.shape != (rows, 1, length, stored + length):
            found = None if attention_mask is None else tuple(attention_mask.shape)
            raise ValueError(f"expected attention_mask (batch, 1, queries, keys), got {found}")
        mask = torch.zeros(attention_mask.shape, dtype=hidden.dtype, device=hidden.device)
        mask = mask.masked_fill(attention_mask == 0, torch.finfo(hidden.dtype).min)
        if position_ids is None:
            position_ids = torch.arange(stored, stored + length, device=hidden.device).unsqueeze(0)
        for number, layer in enumerate(self.layers):
            remember = None
            if past_key_values is not None:
                remember = lambda k, v, number=number: past_key_values.update(k, v, number, {})  # noqa: E731
            context = (position_ids, self.rotary_emb.inv_freq, mask, remember)
            if self.gradient_checkpointing and self.training:
                hidden = self._gradient_checkpointing_func(layer.__call__, hidden, *context)
            else:
                hidden = layer(hidden, *context)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden), past_key_values=past_key_values)


class LLaDA2MoeModelLM(LLaDA2MoePreTrainedModel, GenerationMixin):
    _tied_weights_keys = ["lm_head.weight"]  # noqa: RUF012  # what transformers 4 asked for

    def __init__(self, config):
        super().__init__(config)
        self.model = LLaDA2MoeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.word_embeddings

    def set_input_embeddings(self, value):
        self.model.word_embeddings = value

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def get_decoder(self):
        return self.model

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        **kwargs,
    ):
        outputs = self.model(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache)
        logits = self.lm_head(outputs.last_hidden_state).float()
        return MoeCausalLMOutputWithPast(logits=logits, past_key_values=outputs.past_key_values)
