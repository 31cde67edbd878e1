"""Rows of a vocabulary for which the tokenizer has no token: no rollout draws one, and the loss scores by that law."""

import pytest
import torch
from zoo.standins import STAND_INS, load

from core.alpha_schedule import sync_masking_with_nelbo
from core.sampling import SELECTIONS, draw_keys
from trainers.models.policy import embedding_rows
from trainers.settings.objects import build_generator, build_likelihood, build_masking

SPARE = [name for name, kind in STAND_INS.items() if kind.spare]


@pytest.fixture
def policy(stand_in, name):
    return load(name, stand_in(name)[0])


def rolled_out(policy, args, rows: int = 24):
    """A sampler, a likelihood and completions at temperature 1, prompts of several lengths."""
    prompts = policy.tokenizer(["Ann has 8 books.", "a", "Tom has 5 apples and 4 more."] * (rows // 3), padding=True)
    ids, mask = (torch.tensor(prompts[key]) for key in ("input_ids", "attention_mask"))
    masking, likelihood = build_masking(args), build_likelihood(args, policy.block_length)
    schedule = sync_masking_with_nelbo(masking, likelihood)
    sampler = build_generator(args, policy.denoiser(), schedule, masking, policy.eos_id)
    with policy.denoiser().evaluating():
        made = sampler.generate(ids, mask, draw_keys(rows, torch.Generator().manual_seed(0)))
    return ids, mask, masking, likelihood, made


def options(policy, **more):
    size = {"block_length": policy.block_length, "max_completion_length": 14, "max_timesteps": 14}
    return size | {"p_mask_prompt": 0.0, "nelbo_source": "rollout", "nelbo_replay": "all"} | more


@pytest.mark.parametrize("name", SPARE)
@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_rollout_draws_tokens_alone_and_every_text_can_be_decoded(policy, grpo_args, name, selection):
    """The spare rows of the stand-ins are loud: without the exclusion most texts hold one."""
    *_, made = rolled_out(policy, grpo_args(**options(policy, selection=selection)))
    known = set(policy.tokenizer.get_vocab().values())
    assert embedding_rows(policy.model) == len(policy.tokenizer) + STAND_INS[name].spare > max(known) + 1
    assert set(made.ids.flatten().tolist()) <= known - {policy.mask_id}
    assert all(isinstance(policy.decode(text), str) for text in made.completions())


@pytest.mark.parametrize("name", SPARE)
def test_the_loss_says_of_a_rollout_what_the_rollout_recorded(policy, grpo_args, name):
    ids, mask, masking, likelihood, made = rolled_out(policy, grpo_args(**options(policy)))
    draws = likelihood.draw(masking, len(ids), 14, ids.size(1), torch.Generator().manual_seed(0), trajectory=made)
    with policy.denoiser().evaluating():
        found = likelihood.score(policy.denoiser(), ids, mask, made.ids, draws)
    assert made.exact and float(made.commit_logps.min()) < -0.5
    torch.testing.assert_close(found.token_bound, -made.commit_logps, atol=2e-5, rtol=1e-4)
