"""A small transformer of transformers' own whose distributions are far from uniform."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def loud_llama(vocabulary: int) -> LlamaForCausalLM:
    """A bidirectional Llama of width 32 with random weights, always the same ones, in eval mode."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        is_causal=False,
        use_cache=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    return model
