"""Stand-in for LLaDA-MoE's config, which has the same model_type as LLaDA's."""

from transformers import PretrainedConfig


class LLaDAConfig(PretrainedConfig):
    model_type = "llada"

    def __init__(
        self,
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        expert_intermediate_size=24,
        num_experts=4,
        num_experts_per_tok=2,
        initializer_range=0.3,
        output_router_logits=False,
        router_aux_loss_coef=0.01,
        **kwargs,
    ):
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.num_attention_heads, self.expert_intermediate_size = num_attention_heads, expert_intermediate_size
        self.num_experts, self.num_experts_per_tok = num_experts, num_experts_per_tok
        self.initializer_range = initializer_range
        self.output_router_logits, self.router_aux_loss_coef = output_router_logits, router_aux_loss_coef
        super().__init__(**kwargs)
