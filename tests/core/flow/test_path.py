"""The path follows the schedule, prompts stand beside it, and draws come from the generator alone."""

from dataclasses import replace

import pytest
import torch
from flows import DATA, MASK, PROMPT_MASK, PROMPTS, SCHEDULE, D, L, P, RandomFlow, T, draws_of, score
from toys import assert_mean, chi_square_excess, rng

from core.alpha_schedule import SCHEDULES, AlphaSchedule
from core.flow.loss import FlowMatchingLoss
from core.flow.path import levels, velocity
from core.masking_strategy import DiffusionMaskingStrategy


@pytest.mark.parametrize("name", SCHEDULES)
def test_noise_enters_by_the_mask_probability_of_the_schedule(name):
    schedule = AlphaSchedule(name, T)
    loss, denoiser = FlowMatchingLoss(schedule, num_draws=T + 3, noise_scale=0.7), RandomFlow()
    every = torch.tensor([list(schedule.timesteps)] * 3)
    draws = replace(draws_of(loss), timestep=every)
    score(denoiser, loss, draws)
    z = denoiser.seen[-1][0][:, P:].view(3, T + 3, L, D)
    clean = denoiser.table[DATA].unsqueeze(1)
    noise = denoiser.table[MASK] + 0.7 * draws.eps
    for i, t in enumerate(schedule.timesteps):
        sigma = schedule.mask_prob(t).item()
        assert torch.allclose(z[:, i], ((1 - sigma) * clean + sigma * noise[:, i : i + 1])[:, 0], atol=1e-6)
    assert torch.equal(z[:, 0], clean[:, 0]) and torch.equal(z[:, -1], noise[:, -1])


def test_prompts_enter_as_their_embeddings_with_hidden_tokens_masked_and_padding_left_alone():
    loss, denoiser = FlowMatchingLoss(SCHEDULE, num_draws=4), RandomFlow()
    draws = draws_of(loss, p_mask_prompt=0.5)
    score(denoiser, loss, draws)
    embeddings, attention_mask, _ = denoiser.seen[-1]
    for b in range(3):
        for m in range(4):
            row = b * 4 + m
            hidden = draws.prompt_hidden[b, m] & PROMPT_MASK[b].bool()
            expected = torch.where(hidden, MASK, PROMPTS[b])
            assert torch.equal(embeddings[row, :P], denoiser.table[expected])
            assert attention_mask[row].tolist() == PROMPT_MASK[b].tolist() + [1] * L
    assert bool((draws.prompt_hidden & PROMPT_MASK.bool().unsqueeze(1)).any())
    assert bool((draws.prompt_hidden & ~PROMPT_MASK.bool().unsqueeze(1)).any())


def test_velocity_is_bounded_near_the_data():
    z, xhat = torch.randn(3, L, D, generator=rng()), torch.randn(3, L, D, generator=rng(1))
    found = velocity(z, xhat, torch.tensor([0.5, 0.05, 0.001], dtype=torch.float64))
    for row, divisor in enumerate((0.5, 0.05, 0.05)):
        assert torch.allclose(found[row], (z - xhat)[row] / divisor)


@pytest.mark.parametrize("ends, steps", [((0.01, 0.99), T + 2), ((0.0, 0.99), T + 1), ((0.0, 1.0), T)])
def test_transitions_without_width_drop_out_of_the_levels(ends, steps):
    grid = levels(AlphaSchedule("linear", T, *ends))
    assert len(grid) == steps + 1 and bool((grid.diff() > 0).all()) and grid[0] == 0 and grid[-1] == 1


# ---- drawing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_timesteps_are_stratified_over_the_width_measure(name):
    schedule, rows, draws = AlphaSchedule(name, T), 4000, 3
    loss = FlowMatchingLoss(schedule, num_draws=draws)
    timestep = loss.draw(DiffusionMaskingStrategy(0.0, T), rows, 1, 1, 1, rng()).timestep
    expected = rows * draws * schedule.width(torch.arange(T + 2))
    assert chi_square_excess(torch.bincount(timestep.flatten(), minlength=T + 2), expected) < 4
    for m in range(draws):  # draw m comes from the m-th third of the measure
        ends = torch.tensor([m / draws, (m + 1) / draws]).clamp(min=1e-9)
        low, high = schedule.transition_at(ends)
        assert bool((timestep[:, m] >= low).all()) and bool((timestep[:, m] <= high).all())


def test_draws_come_from_the_generator_alone():
    state = torch.random.get_rng_state()
    loss = FlowMatchingLoss(SCHEDULE, num_draws=3)
    first, again, other = (draws_of(loss, seed=seed) for seed in (0, 0, 1))
    for name, value in vars(first).items():
        assert torch.equal(value, getattr(again, name))
    assert not torch.equal(first.eps, other.eps)
    assert torch.equal(state, torch.random.get_rng_state())


def test_noise_is_standard_normal_and_prompts_are_hidden_at_their_rate():
    loss = FlowMatchingLoss(SCHEDULE, num_draws=4)
    draws = draws_of(loss, p_mask_prompt=0.3, rows=400)
    eps = draws.eps.flatten()
    assert_mean(eps, 0.0)
    assert_mean(eps**2, 1.0)
    assert_mean(draws.prompt_hidden.double().flatten(), 0.3)
