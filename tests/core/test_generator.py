"""The sampler: counts follow the law, paths have the recorded probability, shortcuts change nothing."""

import math
from itertools import pairwise

import pytest
import torch
from toys import (
    MASK,
    PROMPT,
    VOCABULARY,
    TableDenoiser,
    all_sequences,
    assert_mean,
    chi_square_excess,
    number,
    prompts,
    rng,
    sampler,
)

from core.alpha_schedule import SCHEDULES, AlphaSchedule
from core.denoiser import tempered_logps
from core.exact import conditional_logps, exact_log_likelihood
from core.generator import SAMPLERS, DiffusionGenerator, sample
from core.masking_strategy import FullMaskingStrategy
from core.selection import SELECTIONS
from core.trajectory import NEVER, Trajectory

EOS = 2
every_schedule = pytest.mark.parametrize("name", SCHEDULES)
every_sampler = pytest.mark.parametrize("kind", SAMPLERS)

# Every pair that behaves in its own way: a rule matters only where the sampler asks for one.
PAIRS = [(kind, rule) for kind in SAMPLERS for rule in (SELECTIONS if SAMPLERS[kind].selects else ("top1",))]
FINAL_PAIRS = [(kind, rule) for kind, rule in PAIRS if SAMPLERS[kind].final]


def watched(
    generator: DiffusionGenerator, rows: int, seed: int = 0
) -> tuple[Trajectory, list[tuple[int, torch.Tensor]]]:
    """A rollout and its canvases after every transition that evaluated the model."""
    seen: list[tuple[int, torch.Tensor]] = []
    out = generator.generate(*prompts(rows), rng(seed), lambda t, ids: seen.append((t, ids)))
    return out, seen


# ---- the law of the counts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_length", [8, 32])
@every_schedule
def test_count_matched_leaves_exactly_the_rounded_share(name, block_length):
    generator = sampler(TableDenoiser(), 32, name, 16, block_length=block_length)
    _, seen = watched(generator, 3)
    for i, (t, ids) in enumerate(seen):
        masked = (ids == MASK).view(3, -1, block_length).sum(dim=2)  # per block
        expected = round(block_length * generator.schedule.mask_prob(t).item())
        current = int((masked[0] < block_length).sum()) - 1
        assert bool((masked[:, :current] == 0).all()) and bool((masked[:, current + 1 :] == block_length).all())
        assert bool((masked[:, current] == expected).all()), (i, t)
    levels = {round(block_length * generator.schedule.mask_prob(t).item()) for t in generator.grid()}
    assert len(seen) == (len(levels) - 1) * (32 // block_length)  # no evaluation that reveals nothing


@every_schedule
def test_ancestral_counts_are_binomial(name):
    rows, length = 1500, 24
    generator = sampler(TableDenoiser(), length, name, 6, sampler="ancestral")
    _, seen = watched(generator, rows)
    assert [t for t, _ in seen] == list(range(6, -2, -1))
    for t, ids in seen:
        count = (ids == MASK).sum(dim=1).double()
        m = generator.schedule.mask_prob(t).item()
        assert_mean(count, length * m)
        assert_mean((count - length * m) ** 2, length * m * (1 - m))


@every_schedule
def test_renoise_keeps_the_mean_share(name):
    generator = sampler(TableDenoiser(), 24, name, 6, sampler="renoise")
    _, seen = watched(generator, 500)
    assert [t for t, _ in seen] == list(range(6, -2, -1))
    for t, ids in seen:
        assert_mean((ids == MASK).double().mean(dim=1), generator.schedule.mask_prob(t).item())


@every_schedule
def test_renoise_revises_and_the_others_never_do(name):
    for kind, rule in PAIRS:
        _, seen = watched(sampler(TableDenoiser(), 8, name, sampler=kind, selection=rule), 20)
        kept = [bool(((after == before) | (before == MASK)).all()) for (_, before), (_, after) in pairwise(seen)]
        assert all(kept) == SAMPLERS[kind].final


@pytest.mark.parametrize("rule", SELECTIONS)
def test_linear_schedule_reveals_uniform_counts(rule):
    generator = sampler(TableDenoiser(), 32, "linear", 8, (0.0, 1.0), selection=rule)
    out = generator.generate(*prompts(2), rng())
    assert bool((torch.nn.functional.one_hot(out.step_map).sum(dim=1) == 4).all())  # LLaDA: 32 tokens in 8 steps
    uneven = sampler(TableDenoiser(), 30, "linear", 8, (0.0, 1.0), selection=rule).generate(*prompts(2), rng())
    assert set(torch.nn.functional.one_hot(uneven.step_map).sum(dim=1).flatten().tolist()) == {3, 4}


@pytest.mark.parametrize("block_length", [2, 4, 8])
@pytest.mark.parametrize(("kind", "rule"), PAIRS)
def test_blocks_finish_left_to_right_on_a_stride_grid(kind, rule, block_length):
    generator = sampler(TableDenoiser(), 8, steps=8, sampler=kind, selection=rule, block_length=block_length)
    stride = 8 // block_length
    assert generator.grid() == [9, *range(8, -1, -stride), -1]
    out, seen = watched(generator, 30)
    assert {t for t, _ in seen} <= set(generator.grid())
    current = 0
    for _, ids in seen:
        begun = (ids != MASK).any(dim=0).view(-1, block_length).any(dim=1)
        current = max(current, int(begun.sum()) - 1)
        done = current * block_length  # what lies before is as it will stay, what lies behind is untouched
        assert torch.equal(ids[:, :done], out.ids[:, :done])
        assert bool((ids[:, done + block_length :] == MASK).all())
    assert current == stride - 1


# ---- what comes out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("block_length", [1, 2, 8])
@pytest.mark.parametrize("eos_id", [None, EOS])
@pytest.mark.parametrize(("kind", "rule"), PAIRS)
def test_no_mask_is_left(kind, rule, eos_id, block_length, temperature):
    options = {"sampler": kind, "selection": rule, "eos_id": eos_id, "block_length": block_length}
    out = sampler(TableDenoiser(), 8, temperature=temperature, **options).generate(*prompts(20), rng())
    assert bool((out.ids < MASK).all()) and bool((out.ids >= 0).all())
    if eos_id is None:
        assert not bool((out.step_map == NEVER).any())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_from_the_tempered_softmax(temperature):
    n = 40_000
    logits = torch.randn(8, generator=rng()).mul(2)
    logits[5] = float("-inf")
    drawn = sample(logits.expand(n, -1), temperature, rng(1))
    p = (logits / temperature).softmax(0)
    assert chi_square_excess(drawn.tokens.bincount(minlength=8), n * p) < 4
    assert torch.allclose(drawn.commit_logps, p.log()[drawn.tokens], atol=1e-6)
    assert torch.allclose(drawn.logps[0], logits.log_softmax(0))


def test_mean_surprisal_of_drawn_tokens_is_the_entropy_of_a_large_vocabulary():
    logits = -torch.arange(1.0, 2049.0).log()  # Zipf: noise of few bits would lose the tail
    logps = logits.log_softmax(0)
    surprisals = -sample(logits.expand(2000, -1), 1.0, rng()).commit_logps
    assert_mean(surprisals, -(logps * logps.exp()).sum())


@pytest.mark.parametrize(("kind", "rule"), FINAL_PAIRS)
def test_greedy_commits_the_argmax_of_the_state_it_saw(kind, rule):
    out = sampler(TableDenoiser(), 8, temperature=0.0, sampler=kind, selection=rule).generate(*prompts(10), rng())
    for step in out.step_map.unique():
        state = torch.cat([prompts(10)[0], torch.where(out.step_map < step, out.ids, MASK)], dim=1)
        rows = torch.cat([torch.zeros(10, 2, dtype=torch.bool), out.step_map == step], dim=1)
        argmax = TableDenoiser().logits(state, None, rows).argmax(dim=1)
        assert torch.equal(out.ids[out.step_map == step], argmax)
    assert bool((out.commit_logps == 0).all())


def test_greedy_with_a_deterministic_rule_needs_no_randomness():
    generator = sampler(TableDenoiser(), 8, temperature=0.0, selection="top1")
    one, two = (generator.generate(*prompts(1), rng(seed)) for seed in (0, 1))
    assert torch.equal(one.ids, two.ids) and torch.equal(one.step_map, two.step_map)


@pytest.mark.parametrize(("kind", "rule"), PAIRS)
def test_the_generator_is_the_only_randomness(kind, rule):
    before = torch.get_rng_state()
    generator = sampler(TableDenoiser(), 8, sampler=kind, selection=rule)
    one, same, other = (generator.generate(*prompts(10), rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.ids, same.ids) and torch.equal(one.step_map, same.step_map)
    assert not torch.equal(one.ids, other.ids)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("kind", "rule"), PAIRS)
def test_padding_does_not_show(kind, rule):
    generator = sampler(TableDenoiser(), 6, sampler=kind, selection=rule)
    prompt_mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    clean = torch.tensor([[0, 0, 1, 2], [2, 1, 1, 2]])
    garbage = torch.tensor([[2, 1, 1, 2], [2, 1, 1, 2]])
    outs = [generator.generate(ids, prompt_mask, rng()) for ids in (clean, garbage)]
    assert torch.equal(outs[0].ids, outs[1].ids) and torch.equal(outs[0].commit_logps, outs[1].commit_logps)
    assert torch.equal(generator.denoiser.last_attention, torch.cat([prompt_mask, torch.ones(2, 6).long()], dim=1))


# ---- stopping at EOS ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_length", [1, 2, 8])
@pytest.mark.parametrize(("kind", "rule"), PAIRS)
def test_forwards_count_the_evaluations_a_row_took_part_in(kind, rule, block_length):
    options = {"sampler": kind, "selection": rule, "block_length": block_length}
    totals = {}
    for eos_id in (None, EOS):
        denoiser = TableDenoiser()
        out = sampler(denoiser, 8, eos_id=eos_id, **options).generate(*prompts(20), rng())
        sizes = denoiser.rows_seen
        assert int(out.forwards.sum()) == sum(sizes) and int(out.forwards.max()) == len(sizes)
        assert len(sizes) <= 8 + 2 * (8 // block_length)  # T shared by the blocks, and two closing levels each
        assert sizes == sorted(sizes, reverse=True)
        assert (sizes[-1] < 20) == (eos_id is not None and (SAMPLERS[kind].final or block_length < 8))
        totals[eos_id] = sum(sizes)
    assert totals[EOS] <= totals[None]


@pytest.mark.parametrize(("kind", "rule"), PAIRS)
def test_a_stopped_row_takes_no_part_in_later_blocks(kind, rule):
    generator = sampler(TableDenoiser(), 8, sampler=kind, selection=rule, block_length=2, eos_id=EOS)
    out = generator.generate(*prompts(100), rng())
    block_end = (out.lengths + 1) // 2 * 2
    later = torch.arange(8) >= block_end.unsqueeze(1)
    assert bool(later.any())
    assert bool((out.step_map[later] == NEVER).all()) and bool((out.ids[later] == EOS).all())


def text_counts(out: Trajectory) -> torch.Tensor:
    return number(out.completion_ids).bincount(minlength=VOCABULARY**3)


@pytest.mark.parametrize("block_length", [1, 3])
@pytest.mark.parametrize(("kind", "rule"), PAIRS)
def test_stopping_at_eos_leaves_the_law_of_the_text(kind, rule, block_length):
    n = 8000
    options = {"steps": 3, "sampler": kind, "selection": rule, "block_length": block_length}
    stopped = sampler(TableDenoiser(), 3, eos_id=EOS, **options).generate(*prompts(n), rng())
    full = sampler(TableDenoiser(), 3, **options).generate(*prompts(n), rng(1))
    is_tail = (full.ids == EOS).cumsum(dim=1) > 0
    one, two = text_counts(stopped), number(torch.where(is_tail, EOS, full.ids)).bincount(minlength=VOCABULARY**3)
    total = (one + two).double()
    keep = total >= 10
    statistic = ((one - two)[keep] ** 2 / total[keep]).sum().item()
    freedom = int(keep.sum()) - 1
    assert freedom >= 10
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5


# ---- laws, enumerated -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables() -> torch.Tensor:
    return torch.stack([conditional_logps(TableDenoiser(), PROMPT, ids) for ids in all_sequences(3)])


@pytest.mark.parametrize("eos_id", [None, EOS])
@pytest.mark.parametrize("steps", [1, 4])
@every_schedule
def test_ancestral_sampling_has_the_exact_likelihood(name, steps, eos_id, tables):
    n = 30_000
    generator = sampler(TableDenoiser(), 3, name, steps, sampler="ancestral", eos_id=eos_id)
    probability = torch.stack([exact_log_likelihood(table, generator.schedule) for table in tables]).exp()
    ids = all_sequences(3)
    if eos_id is not None:  # all completions with the same text up to EOS are one
        ids = torch.where((ids == EOS).cumsum(dim=1) > 0, EOS, ids)
    expected = n * probability.new_zeros(27).index_add(0, number(ids), probability)
    out = generator.generate(*prompts(n), rng())
    assert chi_square_excess(text_counts(out), expected) < 4


def position_probability(kind: str, rule: str, grid: list[int], schedule: AlphaSchedule, steps: list[int]) -> float:
    """Probability that chance alone, not the distributions, gives its part of a row's reveal steps."""
    revealed = [step for step in steps if step != NEVER]
    if kind == "ancestral":  # each token chooses its transition by width; the unrevealed are past the last one
        levels = [schedule.mask_prob(t).item() for t in grid]
        chosen = math.prod(levels[step] - levels[step + 1] for step in revealed)
        return chosen * levels[max(revealed) + 1] ** (len(steps) - len(revealed))
    if rule != "random":
        return 1.0
    left, probability = len(steps), 1.0
    for step in sorted(set(revealed)):
        probability /= math.comb(left, revealed.count(step))
        left -= revealed.count(step)
    return probability


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("eos_id", [None, EOS])
@pytest.mark.parametrize(("kind", "rule"), FINAL_PAIRS)
def test_commit_logps_multiply_to_the_probability_of_the_path_iff_exact(kind, rule, eos_id, temperature):
    n, denoiser = 20_000, TableDenoiser()
    generator = sampler(denoiser, 3, steps=2, sampler=kind, selection=rule, eos_id=eos_id, temperature=temperature)
    out, seen = watched(generator, n)
    if kind == "ancestral":
        assert [t for t, _ in seen] == generator.grid()[1:]  # batch steps are transitions
    path = torch.where(out.step_map == NEVER, 9, out.step_map)
    code = number(torch.cat([out.ids, path], dim=1), 10)
    _, inverse, counts = code.unique(return_inverse=True, return_counts=True)
    first = torch.full_like(counts, n).scatter_reduce(0, inverse, torch.arange(n), "amin")
    chance = [
        position_probability(kind, rule, generator.grid(), generator.schedule, steps)
        for steps in out.step_map[first].tolist()
    ]
    probability = out.commit_logps[first].double().sum(dim=1).exp() * torch.tensor(chance, dtype=torch.float64)
    excess = chi_square_excess(counts, n * probability)  # paths never seen go to the pool
    assert out.exact == SELECTIONS[rule].exact
    assert excess < 4 if out.exact else excess > 50


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("kind", "rule"), PAIRS)
def test_a_path_is_exact_iff_sampled_finally_and_without_looking_at_the_token(kind, rule, temperature):
    out = sampler(TableDenoiser(), 4, temperature=temperature, sampler=kind, selection=rule).generate(
        *prompts(2), rng()
    )
    looks = SAMPLERS[kind].selects and not SELECTIONS[rule].exact
    assert out.exact == (temperature > 0 and kind != "renoise" and not looks)


@pytest.mark.parametrize(("kind", "rule"), FINAL_PAIRS)
def test_commit_logps_are_those_of_the_tempered_policy(kind, rule):
    temperature = 0.6
    out = sampler(TableDenoiser(), 6, temperature=temperature, sampler=kind, selection=rule).generate(
        *prompts(10), rng()
    )
    for step in out.step_map.unique():
        here = out.step_map == step
        state = torch.cat([prompts(10)[0], torch.where(out.step_map < step, out.ids, MASK)], dim=1)
        rows = torch.cat([torch.zeros(10, 2, dtype=torch.bool), here], dim=1)
        logps = tempered_logps(TableDenoiser().logits(state, None, rows), temperature)
        assert torch.allclose(
            out.commit_logps[here], logps.gather(1, out.ids[here].unsqueeze(1)).squeeze(1), atol=1e-5
        )


# ---- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "dance"}, "dance.*" + ", ".join(SAMPLERS)),
        ({"selection": "worst"}, "worst.*" + ", ".join(SELECTIONS)),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"block_length": 3}, "block_length=3.*8 tokens"),
        ({"block_length": 0}, "block_length=0"),
        ({"block_length": 2, "steps": 6}, "steps=6.*4"),
    ],
)
def test_impossible_generators_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        sampler(TableDenoiser(), 8, **options)


@every_sampler
def test_masking_without_timesteps_serves_count_matched_only(kind):
    arguments = (TableDenoiser(), AlphaSchedule(max_timesteps=4), FullMaskingStrategy(), 4)
    if kind == "count_matched":
        assert bool((DiffusionGenerator(*arguments, sampler=kind).generate(*prompts(1), rng()).ids < MASK).all())
    else:
        with pytest.raises(ValueError, match="strategy_type='diffusion'"):
            DiffusionGenerator(*arguments, sampler=kind)
