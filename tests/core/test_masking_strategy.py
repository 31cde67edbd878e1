"""Masks have the rates that the schedule states, and the randomness that the caller gives."""

import pytest
import torch
from jaxtyping import TypeCheckError
from toys import rng

from core.alpha_schedule import SCHEDULES
from core.masking_strategy import (
    MASKING_STRATEGIES,
    DiffusionMaskingStrategy,
    FullMaskingStrategy,
    as_generator,
    uniform,
)

T, MASK_ID = 16, 9
every_schedule = pytest.mark.parametrize("name", SCHEDULES)
every_strategy = pytest.mark.parametrize("kind", MASKING_STRATEGIES)


def batch(rows: int, width: int) -> torch.Tensor:
    return torch.randint(0, MASK_ID, (rows, width), generator=rng())


def first(prompt: int, width: int) -> torch.Tensor:
    """prompt_index (N,) of a prompt in front."""
    return torch.arange(width) < prompt


def assert_rate(hidden: torch.Tensor, probability: float) -> None:
    """A share of independent coins, within 4 standard errors; certain coins exactly."""
    error = (probability * (1 - probability) / hidden.numel()) ** 0.5
    assert abs(hidden.double().mean().item() - probability) <= 4 * error


@pytest.mark.parametrize("t", [-1, 0, 1, T // 2, T - 1, T, T + 1])
@every_schedule
def test_completion_is_masked_at_one_minus_alpha_and_prompt_at_its_own_rate(name, t):
    strategy = DiffusionMaskingStrategy(0.3, T, name)
    ids = batch(100, 400)
    noisy, p_mask = strategy.forward_process(ids, first(200, 400), MASK_ID, seed=t + 7, timestep=t)
    hidden = noisy == MASK_ID
    assert_rate(hidden[:, :200], 0.3)
    assert_rate(hidden[:, 200:], strategy.schedule.mask_prob(t).item())
    assert torch.equal(noisy[~hidden], ids[~hidden])
    assert torch.allclose(p_mask[:, 200:], strategy.schedule.mask_prob(t).float())
    assert torch.allclose(p_mask[:, :200], torch.tensor(0.3))


@pytest.mark.parametrize("p_mask_prompt", [0.0, 0.15, 1.0])
@every_strategy
def test_prompt_rate_is_the_given_one(kind, p_mask_prompt):
    strategy = MASKING_STRATEGIES[kind](p_mask_prompt)
    noisy, _ = strategy.forward_process(batch(100, 300), first(300, 300), MASK_ID, seed=1, timestep=3)
    assert_rate(noisy == MASK_ID, p_mask_prompt)
    assert_rate(strategy.hide_prompt(uniform(300, 100, generator=rng(), device="cpu")), p_mask_prompt)


def test_each_row_has_its_own_timestep():
    strategy = DiffusionMaskingStrategy(0.0, T)
    t = torch.tensor([1, 5, 9, T])
    noisy, p_mask = strategy.forward_process(batch(4, 20_000), first(0, 20_000), MASK_ID, seed=0, timestep=t)
    for row in range(4):
        assert_rate(noisy[row] == MASK_ID, strategy.schedule.mask_prob(int(t[row])).item())
    assert torch.allclose(p_mask[:, 0], strategy.schedule.mask_prob(t).float())


def test_absent_timestep_is_uniform_over_1_to_T():
    strategy = DiffusionMaskingStrategy(0.0, 4, "linear")
    _, p_mask = strategy.forward_process(batch(8000, 1), first(0, 1), MASK_ID, seed=0)
    levels = strategy.schedule.mask_prob(torch.arange(1, 5)).float()
    assert set(p_mask.flatten().tolist()) == set(levels.tolist())
    for level in levels:
        assert_rate(p_mask == level, 0.25)


@every_strategy
def test_one_prompt_index_for_all_rows_or_one_for_each(kind):
    strategy, index = MASKING_STRATEGIES[kind](), first(3, 8)
    shared = strategy.forward_process(batch(5, 8), index, MASK_ID, seed=4)
    each = strategy.forward_process(batch(5, 8), index.expand(5, -1), MASK_ID, seed=4)
    assert torch.equal(shared[0], each[0]) and torch.equal(shared[1], each[1])
    ragged = torch.arange(8) < torch.arange(1, 6).unsqueeze(1)
    _, p_mask = strategy.forward_process(batch(5, 8), ragged, MASK_ID, seed=4, timestep=2)
    assert torch.equal(p_mask == torch.tensor(0.3), ragged)


@every_strategy
def test_p_mask_is_the_probability_that_was_used(kind):
    strategy = MASKING_STRATEGIES[kind]()
    noisy, p_mask = strategy.forward_process(batch(50, 40), first(20, 40), MASK_ID, seed=3, timestep=70)
    u = uniform(50, 40, generator=rng(3), device="cpu")  # with a timestep given, nothing else is drawn
    assert torch.equal(noisy == MASK_ID, u < p_mask)


@every_strategy
def test_a_seed_is_a_generator_and_repeats(kind):
    strategy = MASKING_STRATEGIES[kind](0.5)
    arguments = (batch(20, 30), first(15, 30), MASK_ID)
    by_int, by_generator = (strategy.forward_process(*arguments, seed=seed)[0] for seed in (11, rng(11)))
    assert torch.equal(by_int, by_generator)
    assert not torch.equal(by_int, strategy.forward_process(*arguments, seed=12)[0])
    generator = rng(11)
    stream = [strategy.forward_process(*arguments, seed=generator)[0] for _ in range(2)]
    assert torch.equal(stream[0], by_int) and not torch.equal(stream[1], by_int)
    fresh = [strategy.forward_process(*arguments)[0] for _ in range(2)]
    assert not torch.equal(*fresh)


@pytest.mark.parametrize("seed", [None, 5, "generator"])
@every_strategy
def test_the_global_random_state_is_untouched(kind, seed):
    seed = rng() if seed == "generator" else seed
    before = torch.get_rng_state()
    MASKING_STRATEGIES[kind]().forward_process(batch(4, 6), first(2, 6), MASK_ID, seed=seed)
    as_generator(seed)
    assert torch.equal(torch.get_rng_state(), before)


@every_strategy
def test_padding_is_never_masked(kind):
    strategy = MASKING_STRATEGIES[kind](1.0)
    attention_mask = (torch.arange(12) >= torch.arange(6).unsqueeze(1)).long()
    noisy, p_mask = strategy.forward_process(
        batch(6, 12), first(7, 12), MASK_ID, seed=0, timestep=T, attention_mask=attention_mask
    )
    padding = attention_mask == 0
    assert bool((p_mask[padding] == 0).all()) and bool((noisy[padding] != MASK_ID).all())
    assert bool((noisy[:, 5:7] == MASK_ID).all())  # the prompt beside it is


@every_schedule
def test_states_drawn_from_one_uniform_are_nested(name):
    strategy = DiffusionMaskingStrategy(0.0, T, name)
    u = uniform(1000, generator=rng(), device="cpu")
    states = strategy.hide(u.expand(T + 3, -1), torch.arange(-1, T + 2))
    assert bool((states[1:] | ~states[:-1]).all())  # what is masked at t is masked at t + 1
    assert not bool(states[0].any()) and bool(states[-1].all())


def test_full_masking_ignores_the_timestep():
    strategy = FullMaskingStrategy(0.3)
    results = [
        strategy.forward_process(batch(6, 20), first(10, 20), MASK_ID, seed=2, timestep=t)
        for t in (-7, 0, 3, 10**6, torch.arange(6))
    ]
    for noisy, p_mask in results:
        assert torch.equal(noisy, results[0][0]) and torch.equal(p_mask, results[0][1])
        assert bool((noisy[:, 10:] == MASK_ID).all())
    assert set(strategy.get_alpha_schedule_params().values()) == {None}


@pytest.mark.parametrize("timestep", [-2, T + 2, torch.tensor([0, T + 5])])
def test_timesteps_outside_the_grid_are_named(timestep):
    wrong = timestep if isinstance(timestep, int) else T + 5
    with pytest.raises(ValueError, match=rf"timestep {wrong} .*-1..{T + 1}"):
        DiffusionMaskingStrategy(0.3, T).forward_process(batch(2, 4), first(1, 4), MASK_ID, timestep=timestep)


def test_impossible_arguments_are_named():
    with pytest.raises(ValueError, match=r"p_mask_prompt=1\.5"):
        DiffusionMaskingStrategy(1.5)
    with pytest.raises(ValueError, match="alpha_schedule='tan'"):
        DiffusionMaskingStrategy(alpha_schedule="tan")
    with pytest.raises((ValueError, TypeCheckError), match="prompt_index"):  # the shape string may refuse it first
        DiffusionMaskingStrategy().forward_process(batch(2, 4), first(1, 3), MASK_ID)
