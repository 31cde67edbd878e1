"""Stand-in for a Qwen3 that was turned into a diffusion model: transformers' own layers, run by a loop of its own that
asks them for their type."""

import torch
import transformers
from transformers.modeling_outputs import BaseModelOutputWithPast

from .configuration_a2d import A2DQwen3Config


class A2DQwen3Model(transformers.Qwen3Model):
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
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        stored = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None:
            position_ids = torch.arange(stored, stored + hidden.size(1), device=hidden.device).unsqueeze(0)
        mask = attention_mask
        if mask is not None and mask.ndim == 2:
            mask = mask.bool()[:, None, None, :].expand(-1, 1, hidden.size(1), -1)
        masks = {"full_attention": mask}
        rotations = self.rotary_emb(hidden, position_ids)
        for layer in self.layers:
            hidden = layer(
                hidden,
                attention_mask=masks[layer.attention_type],
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                position_embeddings=rotations,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden), past_key_values=past_key_values)


class A2DQwen3LMHeadModel(transformers.Qwen3ForCausalLM):
    config_class = A2DQwen3Config

    def __init__(self, config):
        super(transformers.Qwen3ForCausalLM, self).__init__(config)
        self.model = A2DQwen3Model(config)
        for layer in self.model.layers:
            layer.self_attn.is_causal = False
        self.vocab_size = config.vocab_size
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


transformers.AutoConfig.register(A2DQwen3Config.model_type, A2DQwen3Config)
transformers.AutoModel.register(A2DQwen3Config, model_class=A2DQwen3LMHeadModel)
