"""The sampler: counts follow the law, paths have the recorded probability, shortcuts change nothing."""

import math
from itertools import pairwise

import pytest
import torch
from pairs import EOS, PAIRS, chosen
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
from core.denoisers import Denoiser
from core.denoisers.denoiser import tempered_logps
from core.generator import DiffusionGenerator
from core.masking_strategy import FullMaskingStrategy, uniform
from core.oracles.exact import conditional_logps, exact_log_likelihood
from core.sampling import SAMPLERS, SELECTIONS, SOLVERS, draw_keys
from core.sampling.noise import REVEAL, RowNoise
from core.trajectory import NEVER, Trajectory

every_schedule = pytest.mark.parametrize("name", SCHEDULES)
every_sampler = pytest.mark.parametrize("kind", SAMPLERS)

WALKING_PAIRS = [(kind, rule) for kind, rule in PAIRS if not SAMPLERS[kind].adaptive]  # on the grid of timesteps
FINAL_PAIRS = [(kind, rule) for kind, rule in PAIRS if SAMPLERS[kind].final]
# Those that draw every token from p(token | state) itself.
OWN_PAIRS = [(kind, rule) for kind, rule in FINAL_PAIRS if rule not in ("dpm", "unipc")]
EVALUATIONS = {"unipc": 2, "rk4": 4}  # of a transition, at most; 1 for everything else


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
def test_only_renoise_and_revise_change_what_they_wrote(name):
    for kind, rule in PAIRS:
        _, seen = watched(sampler(TableDenoiser(), 8, name, **chosen(kind, rule)), 20)
        kept = [bool(((after == before) | (before == MASK)).all()) for (_, before), (_, after) in pairwise(seen)]
        assert all(kept) == (kind not in ("renoise", "revise"))


@pytest.mark.parametrize("rule", SELECTIONS)
def test_linear_schedule_reveals_uniform_counts(rule):
    generator = sampler(TableDenoiser(), 32, "linear", 8, (0.0, 1.0), selection=rule)
    out = generator.generate(*prompts(2), rng())
    assert bool((torch.nn.functional.one_hot(out.step_map).sum(dim=1) == 4).all())  # LLaDA: 32 tokens in 8 steps
    uneven = sampler(TableDenoiser(), 30, "linear", 8, (0.0, 1.0), selection=rule).generate(*prompts(2), rng())
    assert set(torch.nn.functional.one_hot(uneven.step_map).sum(dim=1).flatten().tolist()) == {3, 4}


@pytest.mark.parametrize("block_length", [2, 4, 8])
@pytest.mark.parametrize(("kind", "rule"), WALKING_PAIRS)
def test_blocks_finish_left_to_right_on_a_stride_grid(kind, rule, block_length):
    generator = sampler(TableDenoiser(), 8, steps=8, **chosen(kind, rule), block_length=block_length)
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


# ---- revise ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_length", [8, 32])
@every_schedule
def test_revise_leaves_exactly_the_rounded_share_masked(name, block_length):
    generator = sampler(TableDenoiser(), 32, name, 16, block_length=block_length, sampler="revise")
    _, seen = watched(generator, 3)
    blocks = 32 // block_length
    left = {t: round(block_length * generator.schedule.mask_prob(t).item()) for t in generator.grid()}
    # Once something is visible there is something to doubt, until nothing is masked and nothing is to be.
    expected = [(t, to) for t, to in pairwise(generator.grid()) if left[to] < block_length and left[t] > 0]
    assert [t for t, _ in seen] == [to for _, to in expected] * blocks
    for i, (t, ids) in enumerate(seen):
        masked = (ids == MASK).view(3, blocks, block_length).sum(dim=2)
        current = i // len(expected)
        assert bool((masked[:, :current] == 0).all()) and bool((masked[:, current + 1 :] == block_length).all())
        assert bool((masked[:, current] == left[t]).all()), (i, t)


def test_revise_leaves_the_share_in_the_rows_that_are_left():
    generator = sampler(TableDenoiser(), 8, block_length=2, sampler="revise", eos_id=EOS)
    out, seen = watched(generator, 50)
    dropped = torch.zeros(50, dtype=torch.bool)
    for i, (t, ids) in enumerate(seen):
        # A row is dropped, whole, after a block that ends with an EOS in it; the last evaluation shows it unfinished.
        masked = (ids == MASK).sum(dim=1)
        assert bool((masked[dropped] == 0).all())
        current = (ids[~dropped] != MASK).view(-1, 4, 2).any(dim=2).sum(dim=1) - 1
        assert len(current.unique()) == 1
        expected = round(2 * generator.schedule.mask_prob(t).item())
        assert bool((masked[~dropped] == expected + 2 * (3 - current)).all())
        if i + 1 < len(seen) and seen[i + 1][0] > t:
            dropped = (ids == EOS).any(dim=1)
    assert bool(dropped.any()) and not bool(dropped.all()) and bool((out.ids < MASK).all())


class SecondThoughts(Denoiser):
    """Certain of token 0 on an empty canvas, and of token 1 everywhere, visible or not, once it sees a token."""

    mask_id = 2

    def logits(self, ids: torch.Tensor, attention_mask: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
        empty = (ids[:, 2:] == self.mask_id).all(dim=1)[rows.nonzero(as_tuple=True)[0]]
        sure = torch.where(empty, 0, 1).unsqueeze(1)
        return torch.tensor([[-20.0, -20.0, float("-inf")]]).repeat(len(sure), 1).scatter(1, sure, 0.0)


class Stubborn(TableDenoiser):
    """Certain of every token that it sees."""

    def logits(self, ids: torch.Tensor, attention_mask: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
        logits, stands = super().logits(ids, attention_mask, rows), ids[rows]
        sure = torch.full_like(logits, -20.0).scatter(1, stands.unsqueeze(1), 0.0)
        return torch.where((stands == MASK).unsqueeze(1), logits, sure)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_revise_masks_what_the_model_doubts_and_corrects_it(temperature):
    options = {"length": 12, "steps": 6, "temperature": temperature}
    out, seen = watched(sampler(SecondThoughts(), sampler="revise", **options), 5)
    wrong = seen[0][1] == 0
    assert bool(wrong.any()) and bool(((seen[0][1] == 2) | wrong).all())
    assert bool((seen[1][1][wrong] == 2).all())  # masked again at once
    assert bool((out.ids == 1).all()) and bool((out.step_map > 0).all())
    kept, _ = watched(sampler(SecondThoughts(), sampler="count_matched", **options), 5)
    assert bool((kept.ids == 0).any(dim=1).all())  # where tokens stay, the errors do


def test_revise_masks_nothing_again_where_the_model_never_doubts():
    out, seen = watched(sampler(Stubborn(), 12, steps=6, sampler="revise"), 50)
    for (_, before), (_, after) in pairwise(seen):
        assert bool(((after == before) | (before == MASK)).all())
    assert not out.exact  # which of the new tokens stay depends on the tokens
    # It keeps, of the new ones, those that it believes in most: more than a rule that looks at nothing.
    blind = sampler(Stubborn(), 12, steps=6, selection="random").generate(*prompts(50), rng())
    assert out.commit_logps.mean() > blind.commit_logps.mean()


# ---- between two timesteps ------------------------------------------------------------------------------------------

LADDER = [(9, -1), (8, 3), (5, 2), (4, 4), (2, 0)]  # start and stop, T = 8


def ladder(rows: int, length: int, **options):
    """What `denoise` needs, for rows with the distances of LADDER in turn: generator, data, u, start, stop."""
    generator = sampler(TableDenoiser(), length, sampler="ancestral", **options)
    start, stop = torch.tensor(LADDER)[torch.arange(rows) % len(LADDER)].unbind(dim=1)
    data = torch.randint(VOCABULARY, (rows, length), generator=rng(3))
    return generator, data, uniform(rows, length, generator=rng(4), device="cpu"), start, stop


every_solver = pytest.mark.parametrize("solver", SOLVERS)


@every_solver
def test_denoise_over_the_whole_grid_is_a_rollout(solver):
    """The same numbers, bit for bit: one walk, two doors."""
    generator = sampler(TableDenoiser(), 8, sampler="ancestral", solver=solver)
    keys = draw_keys(20, rng())
    out = generator.generate(*prompts(20), keys)
    u = RowNoise(keys, 20, 8, torch.device("cpu")).everywhere(REVEAL)
    start, stop = torch.full((20,), 9), torch.full((20,), -1)
    canvas = generator.denoise(*prompts(20), torch.zeros(20, 8).long(), u, start, stop, keys)
    for name in ("ids", "step_map", "commit_logps", "forwards"):
        assert torch.equal(getattr(canvas, name), getattr(out, name)), name


@pytest.mark.parametrize("between", [6, 5, 3])
@every_solver
def test_two_walks_are_one_walk_unless_the_solver_remembers(solver, between):
    """Bit for bit where a step depends on its state alone; `dpm` forgets its last step where the walk is cut."""
    generator, data, u, *_ = ladder(40, 8, solver=solver)
    ends = [torch.full((40,), t) for t in (9, between, -1)]
    keys = draw_keys(40, rng())
    whole = generator.denoise(*prompts(40), data, u, ends[0], ends[2], keys)
    first = generator.denoise(*prompts(40), data, u, ends[0], ends[1], keys)
    second = generator.denoise(*prompts(40), first.ids, u, ends[1], ends[2], keys)
    assert torch.equal(first.ids == MASK, generator.masking.hide(u, between))
    same = torch.equal(second.ids, whole.ids)
    same &= torch.equal(first.commit_logps + second.commit_logps, whole.commit_logps)
    assert same == (solver != "dpm")
    assert torch.equal(first.forwards + second.forwards, whole.forwards)


@every_solver
def test_denoise_reveals_the_tokens_between_the_levels_and_touches_no_other(solver):
    generator, data, u, start, stop = ladder(50, 12, solver=solver)
    out = generator.denoise(*prompts(50), data, u, start, stop, rng())
    begin, end = (generator.schedule.mask_prob(t).unsqueeze(1) for t in (start, stop))
    revealed = (end <= u) & (u < begin)
    assert torch.equal(out.step_map != NEVER, revealed)
    assert torch.equal(out.ids == MASK, u < end)
    assert torch.equal(out.ids[u >= begin], data[u >= begin])
    assert not torch.equal(out.ids[revealed], data[revealed])


@every_solver
def test_denoise_takes_as_long_as_its_longest_walk(solver):
    generator, data, u, start, stop = ladder(50, 12, solver=solver)
    out = generator.denoise(*prompts(50), data, u, start, stop, rng())
    sizes = generator.denoiser.rows_seen
    assert len(sizes) <= 10 * EVALUATIONS.get(solver, 1) and min(sizes) > 0  # the longest of LADDER, not the sum
    assert int(out.forwards.sum()) == sum(sizes)
    assert out.forwards.tolist() == [len({step for step in row if step != NEVER}) for row in out.step_map.tolist()]


@every_solver
def test_denoise_from_a_timestep_to_itself_changes_and_costs_nothing(solver):
    generator, data, u, start, _ = ladder(20, 12, solver=solver)
    out = generator.denoise(*prompts(20), data, u, start, start, rng())
    assert torch.equal(out.ids, torch.where(generator.masking.hide(u, start), MASK, data))
    assert generator.denoiser.rows_seen == [] and not bool(out.forwards.any())


@every_solver
def test_denoise_leaves_its_arguments_alone(solver):
    generator, data, u, start, stop = ladder(20, 12, solver=solver)
    arguments = (*prompts(20), data, u, start, stop)
    before = [argument.clone() for argument in arguments]
    generator.denoise(*arguments, rng())
    assert all(torch.equal(*pair) for pair in zip(arguments, before, strict=True))


# ---- what comes out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("block_length", [1, 2, 8])
@pytest.mark.parametrize("eos_id", [None, EOS])
@pytest.mark.parametrize(("kind", "rule"), PAIRS)
def test_no_mask_is_left(kind, rule, eos_id, block_length, temperature):
    options = {"eos_id": eos_id, "block_length": block_length, **chosen(kind, rule)}
    out = sampler(TableDenoiser(), 8, temperature=temperature, **options).generate(*prompts(20), rng())
    assert bool((out.ids < MASK).all()) and bool((out.ids >= 0).all())
    if eos_id is None:
        assert not bool((out.step_map == NEVER).any())


@pytest.mark.parametrize(("kind", "rule"), OWN_PAIRS)
def test_greedy_commits_the_argmax_of_the_state_it_saw(kind, rule):
    out = sampler(TableDenoiser(), 8, temperature=0.0, **chosen(kind, rule)).generate(*prompts(10), rng())
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
    generator = sampler(TableDenoiser(), 8, **chosen(kind, rule))
    one, same, other = (generator.generate(*prompts(10), rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.ids, same.ids) and torch.equal(one.step_map, same.step_map)
    assert not torch.equal(one.ids, other.ids)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("kind", "rule"), PAIRS)
def test_padding_does_not_show(kind, rule):
    denoiser = TableDenoiser()
    generator = sampler(denoiser, 6, **chosen(kind, rule))
    prompt_mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    clean = torch.tensor([[0, 0, 1, 2], [2, 1, 1, 2]])
    garbage = torch.tensor([[2, 1, 1, 2], [2, 1, 1, 2]])
    outs = [generator.generate(ids, prompt_mask, rng()) for ids in (clean, garbage)]
    assert torch.equal(outs[0].ids, outs[1].ids) and torch.equal(outs[0].commit_logps, outs[1].commit_logps)
    # Every evaluation saw the attention masks of the rows that took part in it, in their order.
    one, two = torch.cat([prompt_mask, torch.ones(2, 6).long()], dim=1).tolist()
    seen = [attention.tolist() for attention in denoiser.attention_seen]
    assert all(rows in ([one, two], [one], [two]) for rows in seen)
    took_part = (outs[0].forwards + outs[1].forwards).tolist()
    assert [sum(row in rows for rows in seen) for row in (one, two)] == took_part


# ---- stopping at EOS ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_length", [1, 2, 8])
@pytest.mark.parametrize(("kind", "rule"), PAIRS)
def test_forwards_count_the_evaluations_a_row_took_part_in(kind, rule, block_length):
    options = {"block_length": block_length, **chosen(kind, rule)}
    totals, stops_early = {}, SAMPLERS[kind].final or block_length < 8
    for eos_id in (None, EOS):
        denoiser = TableDenoiser()
        out = sampler(denoiser, 8, eos_id=eos_id, **options).generate(*prompts(20), rng())
        sizes = denoiser.rows_seen
        assert min(sizes) > 0 and int(out.forwards.max()) <= len(sizes)
        # Until something is written the 20 rows, which have one prompt, are one state.
        shared = 0 if kind == "ancestral" else 19
        assert sizes[0] == 1 or not shared
        sizes[0] += shared
        assert int(out.forwards.sum()) == sum(sizes)
        # T shared by the blocks, and two closing levels each; adaptively, at least one token an evaluation.
        at_most = 8 if SAMPLERS[kind].adaptive else 8 + 2 * (8 // block_length)
        assert len(sizes) <= at_most * EVALUATIONS.get(rule, 1)
        if kind in (
            "count_matched",
            "revise",
        ):  # counts are the same in all rows: all that are left take part in everything
            assert int(out.forwards.max()) == len(sizes)
            assert sizes == sorted(sizes, reverse=True)
            assert (sizes[-1] < 20) == (eos_id is not None and stops_early)
        totals[eos_id] = sum(sizes)
    assert (totals[EOS] < totals[None]) == stops_early


@pytest.mark.parametrize("eos_id", [None, EOS])
@pytest.mark.parametrize("block_length", [1, 2, 8])
@pytest.mark.parametrize(("kind", "rule"), FINAL_PAIRS)
def test_a_row_is_evaluated_only_where_it_reveals_something(kind, rule, block_length, eos_id):
    generator = sampler(TableDenoiser(), 8, block_length=block_length, eos_id=eos_id, **chosen(kind, rule))
    out = generator.generate(*prompts(20), rng())
    assert out.forwards.tolist() == [len({step for step in row if step != NEVER}) for row in out.step_map.tolist()]


@pytest.mark.parametrize(("kind", "rule"), PAIRS)
def test_a_stopped_row_takes_no_part_in_later_blocks(kind, rule):
    generator = sampler(TableDenoiser(), 8, **chosen(kind, rule), block_length=2, eos_id=EOS)
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
    options = {"steps": 3, "block_length": block_length, **chosen(kind, rule)}
    stopped = sampler(TableDenoiser(), 3, eos_id=EOS, **options).generate(*prompts(n), rng())
    full = sampler(TableDenoiser(), 3, **options).generate(*prompts(n), rng(1))
    is_tail = (full.ids == EOS).cumsum(dim=1) > 0
    one, two = text_counts(stopped), number(torch.where(is_tail, EOS, full.ids)).bincount(minlength=VOCABULARY**3)
    assert_same_law(one, two, freedom_at_least=8)


def assert_same_law(one: torch.Tensor, two: torch.Tensor, freedom_at_least: int) -> None:
    total = (one + two).double()
    keep = total >= 10
    statistic = ((one - two)[keep] ** 2 / total[keep]).sum().item()
    freedom = int(keep.sum()) - 1
    assert freedom >= freedom_at_least
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("kind", ["count_matched", "ancestral", "revise"])
def test_stopping_at_any_of_several_ends_leaves_the_law_of_the_text(kind):
    """Against the whole canvas, cut at the first of them afterwards: two-sample chi-squared, 4 standard deviations."""
    n, ends = 8000, (EOS, 1)
    stopped = sampler(TableDenoiser(), 3, steps=3, sampler=kind, eos_id=ends).generate(*prompts(n), rng())
    full = sampler(TableDenoiser(), 3, steps=3, sampler=kind).generate(*prompts(n), rng(1))
    ended = (full.ids == EOS) | (full.ids == 1)
    behind = ended.cumsum(dim=1) - ended.long() > 0
    cut = number(torch.where(behind, EOS, full.ids)).bincount(minlength=VOCABULARY**3)
    assert_same_law(text_counts(stopped), cut, freedom_at_least=5)


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


ONE_EVALUATION = [(kind, rule) for kind, rule in OWN_PAIRS if rule not in EVALUATIONS]  # batch steps are transitions


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("eos_id", [None, EOS])
@pytest.mark.parametrize(("kind", "rule"), ONE_EVALUATION)
def test_commit_logps_multiply_to_the_probability_of_the_path_iff_exact(kind, rule, eos_id, temperature):
    n, denoiser = 20_000, TableDenoiser()
    generator = sampler(denoiser, 3, steps=2, eos_id=eos_id, temperature=temperature, **chosen(kind, rule))
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
    assert out.exact == (rule != "low_confidence")
    assert excess < 4 if out.exact else excess > 50


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("kind", "rule"), PAIRS)
def test_a_path_is_exact_iff_sampled_finally_from_the_posterior_without_looking_at_the_token(kind, rule, temperature):
    out = sampler(TableDenoiser(), 4, temperature=temperature, **chosen(kind, rule)).generate(*prompts(2), rng())
    assert out.exact == (
        temperature > 0 and kind not in ("renoise", "revise") and rule not in ("low_confidence", "dpm", "unipc")
    )


@pytest.mark.parametrize(("kind", "rule"), OWN_PAIRS)
def test_commit_logps_are_those_of_the_tempered_policy(kind, rule):
    temperature = 0.6
    out = sampler(TableDenoiser(), 6, temperature=temperature, **chosen(kind, rule)).generate(*prompts(10), rng())
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
        ({"sampler": "ancestral", "solver": "heun"}, "heun.*" + ", ".join(SOLVERS)),
        *(({"sampler": kind, "solver": "rk4"}, f"rk4.*ancestral.*{kind}") for kind in SAMPLERS if kind != "ancestral"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"block_length": 3}, "block_length=3.*8 tokens"),
        ({"block_length": 0}, "block_length=0"),
        ({"block_length": 2, "steps": 6}, "steps=6.*4"),
        ({"threshold": 0.0}, "threshold=0.0"),
        ({"threshold": 1.1}, "threshold=1.1"),
        ({"entropy_bound": -0.1}, "entropy_bound=-0.1"),
        ({"entropy_bound": math.nan}, "entropy_bound=nan"),
    ],
)
def test_impossible_generators_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        sampler(TableDenoiser(), 8, **options)


@every_sampler
def test_masking_without_timesteps_serves_exact_counts_only(kind):
    arguments = (TableDenoiser(), AlphaSchedule(max_timesteps=4), FullMaskingStrategy(), 4)
    if not SAMPLERS[kind].timed:
        assert bool((DiffusionGenerator(*arguments, sampler=kind).generate(*prompts(1), rng()).ids < MASK).all())
    else:
        with pytest.raises(ValueError, match="strategy_type='diffusion'"):
            DiffusionGenerator(*arguments, sampler=kind)
