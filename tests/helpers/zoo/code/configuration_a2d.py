"""Stand-in for the config of a Qwen3 that was turned into a diffusion model: transformers' own, under another name."""

import transformers


class A2DQwen3Config(transformers.Qwen3Config):
    model_type = "a2d-qwen3"
