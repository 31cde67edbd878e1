"""Reveal counts other than the schedule's: Dream's own, step for step, with the law and the replay of any other."""

import pytest
import torch
from toys import MASK, PROMPT, TableDenoiser, prompts, rng, sampler, synced

from core.oracles.sampler_law import all_completions, log_likelihoods, state_table
from core.sampling import COUNTS, SAMPLERS, SELECTIONS

EPS = 1e-3
DREAM = {"counts": "dream", "ends": (0.0, 1 - EPS)}  # the levels of Dream's linspace(1, eps)
ALL = all_completions(torch.arange(3), 4)


def published(length: int, steps: int) -> list[int]:
    """Masked tokens after each of Dream's steps, in float32, as its loop computes them."""
    levels, left = torch.linspace(1, EPS, steps + 1), [length]
    for i in range(steps):
        share = 1 - levels[i + 1] / levels[i]
        revealed = int(torch.tensor(float(left[-1])) * share) if i < steps - 1 else left[-1]
        left.append(left[-1] - revealed)
    return left


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 16, 37, 128, 512])
@pytest.mark.parametrize("length", [1, 7, 16, 64, 100, 256])
def test_dreams_counts_are_those_of_its_loop(length, steps):
    generator = sampler(TableDenoiser(), length, "linear", steps, **DREAM)
    walk = [generator.masked_at(t) for t in generator.grid()]
    assert walk[:1] + walk[1:-1][1:] == published(length, steps) and walk[1] == length and walk[-1] == 0


def test_a_rollout_by_dreams_counts_shows_them_and_needs_no_step_that_reveals_nothing():
    length, steps, seen = 16, 8, []
    generator = sampler(TableDenoiser(), length, "linear", steps, **DREAM)
    generator.generate(*prompts(2), rng(), lambda t, ids: seen.append((ids == MASK).sum(dim=1).tolist()))
    expected = list(dict.fromkeys(published(length, steps)))[1:]
    assert seen == [[left, left] for left in expected]
    plain = sampler(TableDenoiser(), length, "linear", steps, ends=DREAM["ends"])
    assert [plain.masked_at(t) for t in plain.grid()] != [generator.masked_at(t) for t in generator.grid()]


@pytest.mark.parametrize("block_length", [2, 4])
@pytest.mark.parametrize("rule", SELECTIONS)
def test_its_law_sums_to_one(rule, block_length):
    generator = sampler(TableDenoiser(), 4, "linear", 4, **DREAM, selection=rule, block_length=block_length)
    law = log_likelihoods(state_table(generator, PROMPT, ALL), generator)
    assert law.exp().sum().item() == pytest.approx(1.0, abs=1e-9)
    other = sampler(TableDenoiser(), 4, "linear", 4, ends=DREAM["ends"], selection=rule, block_length=block_length)
    assert not torch.allclose(log_likelihoods(state_table(other, PROMPT, ALL), other), law, atol=1e-4)


@pytest.mark.parametrize("rule", ["top1", "entropy", "margin", "random"])
def test_its_path_is_exact_and_replayed_as_recorded(rule):
    generator = sampler(TableDenoiser(), 12, "linear", 6, **DREAM, selection=rule)
    out = generator.generate(*prompts(3), rng())
    assert out.exact
    masking, nelbo = synced(source="rollout", replay="all")
    draws = nelbo.draw(masking, 3, 12, len(PROMPT), rng(), trajectory=out)
    found = nelbo.score(TableDenoiser(), *prompts(3), out.ids, draws)
    assert torch.allclose(found.token_bound, -out.commit_logps, atol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in SAMPLERS if kind != "count_matched"])
def test_counts_are_asked_by_count_matched_alone(kind):
    with pytest.raises(ValueError, match=r"counts='dream' needs generation\.sampler='count_matched', got"):
        sampler(TableDenoiser(), 4, sampler=kind, counts="dream")


def test_unknown_counts_are_named():
    with pytest.raises(ValueError, match=rf"generation\.counts='all' is unknown; known: {', '.join(COUNTS)}"):
        sampler(TableDenoiser(), 4, counts="all")
