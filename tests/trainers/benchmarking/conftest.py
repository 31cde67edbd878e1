"""What tests of the benchmark share: a small model, prompts, and what generators are asked for."""

import pytest
from contending import PROMPT

from trainers.benchmarking.peers import RolloutConfig
from trainers.benchmarking.prompts import random_prompts


@pytest.fixture
def policy(make_policy):
    return make_policy(seed=1, layers=2)


@pytest.fixture
def config(policy):
    tokenizer = policy.tokenizer
    return RolloutConfig(
        canvas_length=12,
        block_length=4,
        steps=6,
        temperature=0.0,
        mask_id=policy.mask_id,
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
        seed=0,
    )


@pytest.fixture
def prompts(policy):
    """Four prompts, two of them padded."""
    ids = random_prompts(policy, 4, PROMPT, seed=0)
    ids[1, :2] = ids[2, :1] = policy.tokenizer.pad_token_id
    return ids
