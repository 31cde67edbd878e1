"""The one-step likelihood against rollouts of one step and of more."""

import torch
from estimating import LENGTH, build, draw, rollouts
from toys import TableDenoiser, prompts, rng, sampler


def test_one_step_is_the_replay_of_a_rollout_of_one_step():
    likelihood, masking = build("one_step")
    denoiser = TableDenoiser()
    trajectory = sampler(denoiser, LENGTH, steps=1, ends=(0.0, 1.0)).generate(*prompts(40), rng())
    assert trajectory.step_map.eq(0).all()
    found = likelihood.score(denoiser, *prompts(40), trajectory.ids, draw(likelihood, masking, trajectory))
    assert torch.allclose(found.per_token_logps, trajectory.commit_logps, atol=1e-5)
    many = rollouts(40)[1]
    apart = likelihood.score(denoiser, *prompts(40), many.ids, draw(likelihood, masking, many))
    assert (apart.per_token_logps - many.commit_logps).abs().max() > 0.1, "and of no other"
    thrice, _ = build("one_step", num_draws=3)  # without masked prompts three draws are one draw
    again = thrice.score(denoiser, *prompts(40), trajectory.ids, draw(thrice, masking, trajectory))
    assert torch.allclose(again.sequence_bound, found.sequence_bound, atol=1e-4)
    assert torch.allclose(again.token_weight, found.token_weight)
