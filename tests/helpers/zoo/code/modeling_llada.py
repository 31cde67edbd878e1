"""Stand-in for LLaDA, written as remote code for transformers 4 is.

It never calls post_init, ties weights by a method without arguments, has an inner module that returns logits and no
hidden states, takes an attention mask and ignores it, refuses a cache, switches activation checkpointing in a way of
its own, prepares inputs for generation, by which transformers 5 takes it for one to be generated with and makes a
subclass, and makes itself known to transformers.
"""

from enum import Enum
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_llada import LLaDAConfig
from .parts import MLP, Layer, frequencies


class ActivationCheckpointingStrategy(str, Enum):  # noqa: UP042  # of an older Python
    whole_layer = "whole_layer"
    one_in_two = "one_in_two"


class LLaDAOutput(NamedTuple):
    logits: Tensor
    attn_key_values: list | None
    hidden_states: tuple | None


class LLaDAModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.strategy = config, None
        width = config.d_model
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.embedding_size, width, device="cpu"),
                "blocks": nn.ModuleList(
                    Layer(width, config.n_heads, MLP(width, config.mlp_hidden_size)) for _ in range(config.n_layers)
                ),
                "ln_f": nn.RMSNorm(width),
            }
        )
        if not config.weight_tying:
            self.transformer["ff_out"] = nn.Linear(width, config.embedding_size, bias=False, device="cpu")
        self.tables = {"frequency": frequencies(width // config.n_heads)}

    def set_activation_checkpointing(self, strategy):
        self.strategy = strategy

    def forward(
        self, input_ids, input_embeddings=None, attention_mask=None, past_key_values=None, use_cache=False
    ) -> LLaDAOutput:
        assert past_key_values is None and not use_cache, "no key-value cache for a masked diffusion model"
        hidden = self.transformer.wte(input_ids) if input_embeddings is None else input_embeddings
        rows, length = hidden.shape[:2]
        if attention_mask is not None:
            attention_mask.view(rows, -1)[:, None, None, :]  # made ready, and then left out of the kernel's call
        positions = hidden.new_ones(1, length).cumsum(dim=1).float() - 1
        for block in self.transformer.blocks:
            if self.strategy == ActivationCheckpointingStrategy.whole_layer and self.training:
                hidden = checkpoint(block, hidden, positions, self.tables["frequency"], use_reentrant=False)
            else:
                hidden = block(hidden, positions, self.tables["frequency"])
        hidden = self.transformer.ln_f(hidden)
        if self.config.weight_tying:
            return LLaDAOutput(F.linear(hidden, self.transformer.wte.weight), None, None)
        return LLaDAOutput(self.transformer.ff_out(hidden), None, None)


class LLaDAModelLM(PreTrainedModel):
    config_class = LLaDAConfig
    base_model_prefix = "model"

    def __init__(self, config, model=None):
        super().__init__(config)
        self.model = LLaDAModel(config) if model is None else model

    def forward(
        self,
        input_ids=None,
        inputs_embeds=None,
        attention_mask=None,
        past_key_values=None,
        labels=None,
        use_cache=None,
        return_dict=None,
    ):
        use_cache = self.config.use_cache if use_cache is None else use_cache
        return_dict = self.config.use_return_dict if return_dict is None else return_dict
        outputs = self.model.forward(input_ids, inputs_embeds, attention_mask, past_key_values, use_cache)
        if not return_dict:
            return (outputs.logits,)
        return CausalLMOutputWithPast(logits=outputs.logits, hidden_states=outputs.hidden_states)

    def can_generate(self):
        return True

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, **kwargs):
        return {
            "input_ids": input_ids,
            "past_key_values": past_key_values,
            "use_cache": kwargs.pop("use_cache", False),
        }

    def get_input_embeddings(self):
        return self.model.transformer.wte

    def set_input_embeddings(self, value):
        self.model.transformer.wte = value

    def get_output_embeddings(self):
        return self.model.transformer.wte if self.config.weight_tying else self.model.transformer.ff_out

    def set_output_embeddings(self, value):
        self.model.transformer.ff_out = value

    def tie_weights(self):
        if self.config.weight_tying:
            self.model.transformer.ff_out = self.model.transformer.wte


AutoModel.register(LLaDAConfig, model_class=LLaDAModelLM)
