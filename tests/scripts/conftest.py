"""A model that a script can load."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trainers.models.tiny import build_tokenizer
from trainers.tasks import gsm8k
from trainers.tasks.word_problems.generator import generate


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A random bidirectional Llama of width 32 with the tokenizer of the embedded problems."""
    bounds = {"min_operations": 1, "max_operations": 1, "max_number": 20}
    pairs = generate("train", 200, seed=0, **bounds)
    tokenizer = build_tokenizer(gsm8k.build_prompt(question) + p.completion() for question, p in pairs)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        is_causal=False,
        use_cache=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    path = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # some weights write nothing but EOS, and a reward without spread trains nothing
        LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
