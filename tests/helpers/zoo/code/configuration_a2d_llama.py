"""Stand-in for the config of a Llama that was made bidirectional."""

from transformers import LlamaConfig


class A2DLlamaConfig(LlamaConfig):
    model_type = "a2d-llama"
