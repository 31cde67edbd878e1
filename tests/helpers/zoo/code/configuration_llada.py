"""Stand-in for LLaDA's config: names of its own for every size, as its code does not come from transformers. It makes
itself known to transformers as the config of every "llada"."""

from transformers import AutoConfig, PretrainedConfig


class LLaDAConfig(PretrainedConfig):
    model_type = "llada"

    def __init__(self, d_model=32, n_heads=2, n_layers=2, embedding_size=64, mlp_hidden_size=48, **kwargs):
        self.d_model, self.n_heads, self.n_layers = d_model, n_heads, n_layers
        self.embedding_size, self.mlp_hidden_size = embedding_size, mlp_hidden_size
        self.weight_tying = kwargs.pop("weight_tying", False)
        self.init_std = kwargs.pop("init_std", 0.3)
        self.use_cache = kwargs.pop("use_cache", False)
        super().__init__(**kwargs)


AutoConfig.register(LLaDAConfig.model_type, LLaDAConfig)
