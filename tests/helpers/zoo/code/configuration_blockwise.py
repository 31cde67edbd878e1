"""Stand-in for the config of a model with blocks of its own."""

from transformers import Qwen2Config


class BlockwiseConfig(Qwen2Config):
    model_type = "blockwise"

    def __init__(self, bd_size=32, **kwargs):
        self.bd_size = bd_size
        super().__init__(**kwargs)
