"""Stand-in for LLaDA2's config."""

from transformers import PretrainedConfig


class LLaDA2MoeConfig(PretrainedConfig):
    model_type = "llada2_moe"

    def __init__(
        self,
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        moe_intermediate_size=24,
        num_experts=4,
        num_experts_per_tok=2,
        rope_theta=10000.0,
        initializer_range=0.3,
        tie_word_embeddings=False,
        output_router_logits=False,
        **kwargs,
    ):
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.num_attention_heads, self.moe_intermediate_size = num_attention_heads, moe_intermediate_size
        self.num_experts, self.num_experts_per_tok = num_experts, num_experts_per_tok
        self.output_router_logits = output_router_logits
        self.rope_theta, self.rope_scaling, self.initializer_range = rope_theta, None, initializer_range
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)
