"""Samplers that reveal as much as the model is sure of: the sets that they reveal, and what they keep of the law."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from toys import (
    MASK,
    ConstantDenoiser,
    TableDenoiser,
    chi_square_excess,
    number,
    prompts,
    rng,
    sampler,
    synced,
)

from core.sampling import SAMPLERS, draw_keys
from core.trajectory import NEVER, Trajectory

LENGTH, ROWS, EOS = 8, 20, 2
# Values at which a step of the toy reveals one token here and several there.
SOME = {"confidence": {"threshold": 0.7}, "entropy_bound": {"entropy_bound": 0.6}}
ONE_BY_ONE = {"confidence": {"threshold": 1.0}, "entropy_bound": {"entropy_bound": 0.0}}
AT_ONCE = {"confidence": {"threshold": 1e-6}, "entropy_bound": {"entropy_bound": 1e6}}
every_kind = pytest.mark.parametrize("kind", SOME)
every_block = pytest.mark.parametrize("block_length", [1, 2, 4, 8])
every_temperature = pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])


def rollout(kind: str, rows: int = ROWS, limit: dict | None = None, **options) -> Trajectory:
    generator = sampler(
        TableDenoiser(), options.pop("length", LENGTH), sampler=kind, **(limit or SOME[kind]), **options
    )
    return generator.generate(*prompts(rows), draw_keys(rows, rng(3)))


@dataclass
class Step:
    """One evaluation of one row: the distributions at the hidden positions of its block, and which it revealed."""

    probs: torch.Tensor  # (n, V), float64
    revealed: torch.Tensor  # (n,)


def steps(out: Trajectory, block_length: int) -> Iterator[Step]:
    for ids, step_map in zip(out.ids, out.step_map, strict=True):
        for step in sorted(set(step_map.tolist()) - {NEVER}):
            hidden = step_map >= step
            block = int((step_map == step).int().argmax()) // block_length
            hidden &= torch.arange(LENGTH) // block_length == block
            state = torch.cat([prompts(1)[0], torch.where(step_map < step, ids, MASK).unsqueeze(0)], dim=1)
            asked = torch.cat([torch.zeros(2).bool(), hidden]).unsqueeze(0)
            probs = TableDenoiser().logits(state, None, asked).double().softmax(dim=1)
            yield Step(probs, step_map[hidden] == step)


def test_the_samplers_here_are_the_adaptive_ones():
    assert set(SOME) == {kind for kind, asks in SAMPLERS.items() if asks.adaptive}


# ---- what a step reveals --------------------------------------------------------------------------------------------


@every_temperature
@every_block
def test_confidence_reveals_the_sure_ones_and_the_surest(block_length, temperature):
    sizes = set()
    for step in steps(rollout("confidence", block_length=block_length, temperature=temperature), block_length):
        top = step.probs.amax(dim=1)
        expected = top >= 0.7
        expected[top.argmax()] = True
        assert torch.equal(step.revealed, expected)
        sizes.add((int(step.revealed.sum()), len(top)))
    assert block_length == 1 or {1, 2} <= {revealed for revealed, _ in sizes}


@every_temperature
@every_block
def test_entropy_bound_reveals_the_longest_run_within_the_bound(block_length, temperature):
    sizes = set()
    for step in steps(rollout("entropy_bound", block_length=block_length, temperature=temperature), block_length):
        entropies = -torch.special.xlogy(step.probs, step.probs).sum(dim=1)
        order, count = entropies.argsort(), int(step.revealed.sum())
        assert set(order[:count].tolist()) == set(step.revealed.nonzero().flatten().tolist())
        price = [float(some.sum() - some.max()) for some in (entropies[order[: k + 1]] for k in range(len(order)))]
        assert all(one <= 0.6 for one in price[:count]) and all(one > 0.6 for one in price[count:])
        sizes.add((count, len(order)))
    assert block_length == 1 or {1, 2} <= {count for count, _ in sizes}


@every_block
@every_kind
def test_the_ends_of_the_scale_are_one_by_one_and_all_at_once(kind, block_length):
    one = rollout(kind, limit=ONE_BY_ONE[kind], block_length=block_length)
    assert bool((one.forwards == LENGTH).all())
    assert torch.equal(one.step_map.sort(dim=1).values, torch.arange(LENGTH).expand(ROWS, -1))
    every = rollout(kind, limit=AT_ONCE[kind], block_length=block_length)
    assert bool((every.forwards == LENGTH // block_length).all())
    assert torch.equal(every.step_map, (torch.arange(LENGTH) // block_length).expand(ROWS, -1))


@pytest.mark.parametrize("limits", [ONE_BY_ONE, AT_ONCE], ids=["one by one", "at once"])
@every_kind
def test_what_is_certain_costs_nothing(kind, limits):
    """Probability 1 meets every threshold, and entropy 0 every bound."""
    certain = ConstantDenoiser([0.0, -math.inf, -math.inf])
    out = sampler(certain, LENGTH, sampler=kind, **limits[kind]).generate(*prompts(3), rng())
    assert out.forwards.tolist() == [1, 1, 1] and bool((out.ids == 0).all())


# ---- the law --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("eos_id", [None, EOS])
@pytest.mark.parametrize("block_length", [1, 3])
@every_kind
def test_commit_logps_multiply_to_the_probability_of_the_path(kind, block_length, eos_id, temperature):
    n = 20_000
    options = {"length": 3, "steps": 3, "block_length": block_length, "eos_id": eos_id, "temperature": temperature}
    out = rollout(kind, n, **options)
    assert out.exact
    code = number(torch.cat([out.ids, torch.where(out.step_map == NEVER, 9, out.step_map)], dim=1), 10)
    _, inverse, counts = code.unique(return_inverse=True, return_counts=True)
    first = torch.full_like(counts, n).scatter_reduce(0, inverse, torch.arange(n), "amin")
    expected = n * out.commit_logps[first].double().sum(dim=1).exp()
    assert chi_square_excess(counts, expected) < 4
    assert expected.sum() > 0.99 * n  # positions follow from tokens: the paths that were seen are nearly all


@pytest.mark.parametrize("temperature", [0.6, 1.0])
@pytest.mark.parametrize("eos_id", [None, EOS])
@every_block
@every_kind
def test_replaying_every_step_gives_back_the_recorded_commits(kind, block_length, eos_id, temperature):
    out = rollout(kind, block_length=block_length, eos_id=eos_id, temperature=temperature)
    masking, nelbo = synced(source="rollout", replay="all")
    estimate = nelbo(TableDenoiser(), masking, *prompts(ROWS), nelbo.canvas(out), rng(), out, temperature)
    assert torch.allclose(estimate.sequence_bound, -out.commit_logps.sum(dim=1), rtol=0, atol=1e-5)
    assert torch.allclose(estimate.per_token_logps, out.commit_logps, rtol=0, atol=1e-5)


@every_kind
def test_greedy_is_not_a_law(kind):
    out = rollout(kind, temperature=0.0)
    assert not out.exact and bool((out.commit_logps == 0).all())


# ---- steps, blocks and the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("eos_id", [None, EOS])
@every_block
@every_kind
def test_a_row_counts_its_own_steps(kind, block_length, eos_id):
    out = rollout(kind, block_length=block_length, eos_id=eos_id)
    for step_map, forwards in zip(out.step_map.tolist(), out.forwards.tolist(), strict=True):
        assert sorted(set(step_map) - {NEVER}) == list(range(forwards))
    assert len(out.forwards.unique()) > 1 or (block_length == 1 and eos_id is None)


@every_block
@every_kind
def test_blocks_are_finished_from_left_to_right(kind, block_length):
    out = rollout(kind, block_length=block_length)
    blocks = out.step_map.view(ROWS, -1, block_length)
    assert bool((blocks[:, :-1].amax(dim=2) < blocks[:, 1:].amin(dim=2)).all())


@every_block
@every_kind
def test_a_row_stops_at_its_first_eos(kind, block_length):
    """The text is that of a row which goes on, and later evaluations are saved."""
    whole, out = (rollout(kind, block_length=block_length, eos_id=eos_id) for eos_id in (None, EOS))
    assert bool(out.stopped.any()) and int(out.forwards.sum()) < int(whole.forwards.sum())
    text = out.completion_mask
    assert torch.equal(out.ids[text], whole.ids[text]) and torch.equal(out.step_map[text], whole.step_map[text])
    assert torch.equal(out.stopped, (whole.ids == EOS).any(dim=1))
    unrevealed = out.step_map == NEVER
    assert bool(unrevealed.any()) and bool((out.ids[unrevealed] == EOS).all())
    last = torch.where(unrevealed, -1, out.step_map).amax(dim=1)
    before = torch.where(text, out.step_map, -1).amax(dim=1)
    assert torch.equal(last, before)  # nothing is revealed after the step that completed the text


@every_block
@every_kind
def test_a_row_is_the_same_alone(kind, block_length):
    keys = draw_keys(ROWS, rng(3))
    out = rollout(kind, block_length=block_length, eos_id=EOS)
    for row in range(0, ROWS, 4):
        generator = sampler(TableDenoiser(), LENGTH, sampler=kind, **SOME[kind], block_length=block_length, eos_id=EOS)
        alone = generator.generate(*prompts(1), keys[row : row + 1])
        for name in ("ids", "step_map", "forwards"):
            assert torch.equal(getattr(alone, name)[0], getattr(out, name)[row]), name
        assert torch.allclose(alone.commit_logps[0], out.commit_logps[row], rtol=0, atol=1e-5)


@every_kind
def test_a_sure_model_needs_fewer_evaluations_than_the_schedule_takes(kind):
    sure = TableDenoiser(sharpness=20.0)
    adaptive = sampler(sure, LENGTH, sampler=kind).generate(*prompts(ROWS), rng())
    counted = sampler(sure, LENGTH).generate(*prompts(ROWS), rng())
    assert int(adaptive.forwards.max()) < int(counted.forwards.min())
