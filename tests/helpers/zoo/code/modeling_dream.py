"""Stand-in for Dream: found through AutoModel alone, a sampler with settings of its own, a mask handed straight to the
kernel."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput

from .configuration_dream import DreamConfig
from .generation_dream import DreamGenerationConfig, DreamGenerationMixin
from .parts import MLP, Layer, frequencies


class DreamPreTrainedModel(PreTrainedModel):
    config_class = DreamConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def _init_weights(self, module):
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data.normal_(std=self.config.initializer_range)

    @classmethod
    def from_pretrained(cls, path, *args, **kwargs):
        model = super().from_pretrained(path, *args, **kwargs)
        model.generation_config = DreamGenerationConfig.from_pretrained(path)
        return model


class DreamBaseModel(DreamPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        width = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.layers = nn.ModuleList(
            Layer(width, config.num_attention_heads, MLP(width, config.intermediate_size), config.attention_dropout)
            for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.RMSNorm(width)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self):
        return self.embed_tokens

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, inputs_embeds=None):
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = torch.arange(hidden.size(1), device=hidden.device).unsqueeze(0)
        mask = attention_mask if isinstance(attention_mask, torch.Tensor) else None
        context = (position_ids, frequencies(self.config.hidden_size // self.config.num_attention_heads), mask)
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                hidden = self._gradient_checkpointing_func(layer.__call__, hidden, *context)
            else:
                hidden = layer(hidden, *context)
        return BaseModelOutput(last_hidden_state=self.norm(hidden))


class DreamModel(DreamGenerationMixin, DreamPreTrainedModel):
    _tied_weights_keys = ["lm_head.weight"]  # noqa: RUF012  # what transformers 4 asked for

    def __init__(self, config):
        super().__init__(config)
        self.model = DreamBaseModel(config)
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
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        num_logits_to_keep=0,
        **kwargs,
    ):
        outputs = self.model(input_ids, attention_mask, position_ids, inputs_embeds)
        hidden = outputs.last_hidden_state
        logits = self.lm_head(hidden[:, -num_logits_to_keep:, :]).float()
        return MaskedLMOutput(logits=logits)
