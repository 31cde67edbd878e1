"""What a model claims is seen by running it: of what is as it claims to be, nothing is refused."""

from dataclasses import replace

import pytest
import torch
from zoo.standins import STAND_INS, load

from trainers.models.loading import load_policy
from trainers.models.policy import Calling
from trainers.models.probes.probing import probed
from trainers.settings.model import ModelArguments

SEEDS = 20
# what is found out about each kind of stand-in
CALLINGS = {
    "llada": Calling(padding="none"),
    "llada_configured": Calling(padding="none"),
    "llada_moe": Calling(attention="sdpa", stores=None),
    "llada2": Calling(padding="pairwise", attention="sdpa"),
    "llada2_tied": Calling(padding="pairwise", attention="sdpa"),
    "dream": Calling(padding="pairwise", attention="sdpa"),
    "sdar": Calling(attention="sdpa", stores="store_kv"),
    "a2d": Calling(attention="sdpa"),
    "bert": Calling(attention="sdpa", counts_padding=True),
    "modernbert": Calling(attention="sdpa", stores=None),
    **dict.fromkeys(("llama", "qwen2", "qwen3"), Calling(attention="sdpa")),
}


@pytest.mark.parametrize("name", STAND_INS)
def test_random_weights_are_found_to_be_what_they_are_whatever_the_seed_and_the_dtype(stand_in, name):
    policy = load(name, stand_in(name)[0])
    claimed = replace(policy, calling=Calling())
    assert policy.calling == CALLINGS[name]
    for seed in range(SEEDS):
        noise = torch.Generator().manual_seed(seed)
        policy.model.to(torch.bfloat16 if seed % 2 else torch.float32)
        with torch.no_grad():
            for weight in policy.model.parameters():
                if weight.ndim > 1:
                    weight.copy_(0.02 * (1 + seed) * torch.randn(weight.shape, generator=noise))
        assert probed(claimed, name).calling == policy.calling, seed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_trained_weights_are_what_they_are(dtype):
    policy = load_policy(ModelArguments(dtype=dtype))
    assert (policy.logit_shift, policy.block_length, policy.calling) == (False, None, Calling(attention="sdpa"))


def test_dropout_is_off_for_the_look_and_randomness_and_mode_are_left_alone(make_policy):
    policy = make_policy(layers=2, attention_dropout=0.5)
    policy.model.train()
    before = torch.get_rng_state()
    assert probed(policy, "dropout").calling == CALLINGS["llama"]
    assert policy.model.training and torch.equal(torch.get_rng_state(), before)
