"""A reference is a copy of the model in hand that nothing moves."""

import torch
from peft import get_peft_model
from watching import LORA, equal, nudge, state

from trainers.models.policy import Policy
from trainers.models.reference import frozen_copy


def test_the_copy_stays_what_the_model_was_and_learns_nothing(make_policy):
    policy = make_policy()
    nudge(policy.model)  # in memory, so that no name leads to it
    before = state(policy.model)
    copied = frozen_copy(policy, None)
    nudge(policy.model, seed=1)
    assert equal(state(copied), before) and not equal(state(policy.model), before)
    assert not any(weight.requires_grad for weight in copied.parameters())
    assert all(weight.requires_grad for weight in policy.model.parameters())


def test_with_an_adapter_the_model_is_its_own_reference(make_policy):
    policy = make_policy()
    assert frozen_copy(policy, LORA) is None
    with torch.random.fork_rng():
        assert frozen_copy(Policy(get_peft_model(policy.model, LORA), policy.tokenizer), None) is None
