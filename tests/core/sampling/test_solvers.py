"""Reverse steps: what they reveal, what they cost, and how fast the law of the result becomes the exact one.

Laws are enumerated, not sampled: `Cases` is a step whose rows are every combination of a state, a set of tokens to
reveal, their times and their outcomes, so one call of a production solver gives its whole transition kernel.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, permutations

import pytest
import torch
from torch import Tensor
from toys import (
    PROMPT,
    TableDenoiser,
    all_sequences,
    chi_square_excess,
    levels,
    number,
    prompts,
    rng,
    sampler,
)

from core.generator import DiffusionGenerator
from core.masking_strategy import uniform
from core.sampling import SOLVERS
from core.sampling.noise import REVEAL, RowNoise
from core.sampling.solvers import RK4_GROUPS, Posteriors, ReverseStep, extrapolate
from core.trajectory import Trajectory

every_solver = pytest.mark.parametrize("name", SOLVERS)

# ---- transition kernels, enumerated ---------------------------------------------------------------------------------

# Denoisers of the toys: V, canvas length, prompt, and how far the posterior is from uniform. "mild" stays where no
# extrapolation is ever clipped, "rough" is nearly certain in many states, "prompted" is what the torch sampler runs.
MILD, ROUGH, PROMPTED = "mild", "rough", "prompted"
NO_PROMPT = PROMPT[:0]
TOYS = {
    MILD: (TableDenoiser(2, sharpness=0.2, seed=1), 5, NO_PROMPT),
    ROUGH: (TableDenoiser(2, sharpness=2.0), 5, NO_PROMPT),
    PROMPTED: (TableDenoiser(3, sharpness=3.0), 4, PROMPT),
}


@cache
def posterior_table(toy: str) -> Tensor:
    """p(token | state) at every position of every state, float64, ((V + 1)^L, L, V); digit V of a state is a mask."""
    denoiser, length, prompt = TOYS[toy]
    states = all_sequences(length, denoiser.mask_id + 1)
    ids = torch.cat([prompt.expand(len(states), -1), states], dim=1)
    rows = (torch.arange(ids.size(1)) >= prompt.size(0)).expand_as(ids)
    probs = denoiser.logits(ids, None, rows).double().softmax(dim=-1)
    return probs[:, : denoiser.mask_id].view(*states.shape, -1)


class Cases(ReverseStep):
    """Every row is a case with its outcome fixed beforehand; `commit` pays for the outcome with the row's weight."""

    def __init__(
        self,
        table: Tensor,
        ids: Tensor,
        outcome: Tensor,
        reveal: Tensor,
        soon: Tensor | None = None,
        time: Tensor | None = None,
        width: float = 1.0,
        memory: Posteriors | None = None,
    ):
        self.table, self.ids, self.outcome, self.reveal = table, ids, outcome, reveal
        self.soon = torch.zeros_like(reveal) if soon is None else soon
        self.time = torch.zeros(reveal.shape) if time is None else time
        self.width = torch.full((len(ids),), width)
        self.memory = memory
        self.weight = torch.ones(len(ids), dtype=torch.float64)

    def posterior(self, where: Tensor) -> Tensor:
        return self.table[number(self.ids, self.table.size(2) + 1)][where]

    def commit(self, where: Tensor, probs: Tensor) -> None:
        price = probs.gather(1, self.outcome[where].unsqueeze(1)).squeeze(1)
        self.weight *= torch.ones(where.shape, dtype=torch.float64).masked_scatter(where, price).prod(dim=1)
        self.ids = torch.where(where, self.outcome, self.ids)


@dataclass(frozen=True)
class Kernel:
    """P(end | start, revealed set), one entry for each (start, set, outcome), (K,).

    A start or end is the number of a state, or of (state before, state) for a solver with memory.
    """

    start: Tensor
    end: Tensor
    masked: Tensor
    revealed: Tensor
    probability: Tensor
    starts: int


ARRANGEMENTS = {  # (length) -> equally likely reveal times, (A, L), as far as the solver can tell them apart
    "euler": lambda length: torch.zeros(1, length),
    "unipc": lambda length: all_sequences(length, 2) / 2 + 0.25,
    "rk4": lambda length: torch.tensor(list(permutations(range(length)))) / length,
}


@cache
def kernel(name: str, toy: str, ratio: float) -> Kernel:
    """A solver's transition kernel; ratio: the step's width over that of the step before."""
    return kernel_with_memory(name, toy, ratio) if name == "dpm" else kernel_without_memory(name, toy)


def kernel_without_memory(name: str, toy: str) -> Kernel:
    table = posterior_table(toy)
    states, length, v = table.shape
    fate = all_sequences(length, 2 * v + 1)  # of a position: visible (v ways), masked, revealed (v ways)
    times = ARRANGEMENTS[name](length)
    rows = fate.repeat_interleave(len(times), dim=0)
    step = Cases(
        table, rows.clamp(max=v), (rows - v - 1).clamp(min=0), rows > v, time=times.repeat(len(fate), 1).double()
    )
    SOLVERS[name].step(step)
    start, end, weight = (
        x.view(-1, len(times)) for x in (number(rows.clamp(max=v), v + 1), number(step.ids, v + 1), step.weight)
    )
    assert bool((end == end[:, :1]).all())
    return Kernel(
        start[:, 0], end[:, 0], (fate >= v).sum(dim=1), (fate > v).sum(dim=1), weight.mean(dim=1), starts=states
    )


def kernel_with_memory(name: str, toy: str, ratio: float) -> Kernel:
    table = posterior_table(toy)
    states, length, v = table.shape
    fate = all_sequences(length, 3 * v + 1)  # visible, masked, revealed by this step, revealed by the step before
    earlier, now = fate > 2 * v, (fate > v) & (fate <= 2 * v)
    outcome = (fate - v - 1).clamp(min=0) % v
    before = Cases(table, fate.clamp(max=v), outcome, earlier, soon=now, width=1 / ratio)
    SOLVERS[name].step(before)
    step = Cases(table, before.ids, outcome, now, memory=before.memory)
    SOLVERS[name].step(step)
    oldest, start, end = (number(ids, v + 1) for ids in (fate.clamp(max=v), before.ids, step.ids))
    masked, revealed = (before.ids == v).sum(dim=1), now.sum(dim=1)
    return Kernel(oldest * states + start, start * states + end, masked, revealed, step.weight, starts=states**2)


def walk(name: str, toy: str, law: Tensor, mask_probs: list[float]) -> Tensor:
    """Law over the states, (S,), after the transitions between the given levels, from a law at the first of them."""
    widths = [start - stop for start, stop in pairwise(mask_probs)]
    ratios = [1.0, *(round(now / before, 9) for before, now in pairwise(widths))]
    states = len(law)
    law = torch.diag(law).flatten() if name == "dpm" else law  # (state before, state): nothing revealed so far
    for (start, _), width, ratio in zip(pairwise(mask_probs), widths, ratios, strict=False):
        k = kernel(name, toy, ratio if name == "dpm" else 1.0)
        assert k.starts == len(law)
        reveal = torch.tensor(width / start, dtype=torch.float64)
        chance = reveal**k.revealed * (1 - reveal) ** (k.masked - k.revealed)
        law = torch.zeros_like(law).index_add(0, k.end, law[k.start] * chance * k.probability)
    return law.view(-1, states).sum(dim=0)


def surely(toy: str, state: list[int]) -> Tensor:
    """The law that is certain of a state."""
    table = posterior_table(toy)
    law = torch.zeros(len(table), dtype=torch.float64)
    law[number(torch.tensor([state]), table.size(2) + 1)] = 1.0
    return law


def all_masked(toy: str) -> Tensor:
    denoiser, length, _ = TOYS[toy]
    return surely(toy, [denoiser.mask_id] * length)


def one_by_one(toy: str, law: Tensor) -> Tensor:
    """The exact law of the clean canvas: tokens drawn one at a time in uniformly random order."""
    table = posterior_table(toy)
    _, length, v = table.shape
    states = all_sequences(length, v + 1)
    masked = states == v
    for _ in range(length):
        after = torch.where(masked.any(dim=1), 0.0, law)
        for i in range(length):
            rows = masked[:, i]
            for token in range(v):
                end = number(states[rows], v + 1) + (token - v) * (v + 1) ** (length - 1 - i)
                after = after.index_add(0, end, law[rows] * table[rows, i, token] / masked[rows].sum(dim=1))
        law = after
    return law


def equal_levels(steps: int) -> list[float]:
    return [1 - i / steps for i in range(steps + 1)]


def alternating_levels(steps: int) -> list[float]:
    """Every second step is three times as wide as the one before."""
    widths = torch.tensor([1.0, 3.0], dtype=torch.float64).repeat(steps // 2) / (2 * steps)
    return [1.0, *(1 - widths.cumsum(0)[:-1]).tolist(), 0.0]


def total_variation(one: Tensor, two: Tensor) -> float:
    return (one - two).abs().sum().item() / 2


def order(name: str, toy: str, law: Tensor, grid: Callable[[int], list[float]] = equal_levels) -> float:
    """Slope of log total variation from the exact law against log number of steps, with the sign turned."""
    exact, steps = one_by_one(toy, law), (4, 8, 16, 32)
    errors = torch.tensor([total_variation(walk(name, toy, law, grid(n)), exact) for n in steps]).log()
    x = torch.tensor(steps).log()
    x = x - x.mean()
    return -((x @ errors) / (x @ x)).item()


UNEQUAL = [1.0, 0.9, 0.55, 0.5, 0.1, 0.0]
from_some_state = pytest.mark.parametrize("state", [[2, 2, 2, 2, 2], [2, 1, 2, 2, 2]], ids=["empty", "partial"])


# ---- the order of the law -------------------------------------------------------------------------------------------


def test_mild_is_never_clipped_and_rough_is():
    mild, rough = posterior_table(MILD), posterior_table(ROUGH)
    # 2 now - before and (3 now - before) / 2 are nonnegative for all probabilities between 1/3 and 2/3.
    assert mild.min() > 1 / 3 and mild.max() < 2 / 3
    assert (2 * rough[:, 0] - rough[-1, 0]).min() < 0  # from the empty canvas in one step


@from_some_state
@pytest.mark.parametrize("grid", [equal_levels, alternating_levels])
@pytest.mark.parametrize(("name", "low", "high"), [("euler", 0.9, 1.1), ("dpm", 1.8, 2.2), ("unipc", 1.8, 2.2)])
def test_order_where_nothing_is_clipped(name, low, high, grid, state):
    assert low < order(name, MILD, surely(MILD, state), grid) < high


@from_some_state
def test_euler_has_order_one_on_rough_posteriors(state):
    assert 0.9 < order("euler", ROUGH, surely(ROUGH, state)) < 1.1


@from_some_state
@pytest.mark.parametrize("name", ["dpm", "unipc"])
def test_clipping_leaves_order_one_with_a_smaller_constant(name, state):
    law = surely(ROUGH, state)
    exact = one_by_one(ROUGH, law)
    euler, other = (total_variation(walk(solver, ROUGH, law, equal_levels(16)), exact) for solver in ("euler", name))
    assert order(name, ROUGH, law) > 0.9
    assert other < 0.6 * euler


@pytest.mark.parametrize("toy", [MILD, ROUGH])
def test_rk4_has_order_four_clipped_or_not(toy):
    assert 3.5 < order("rk4", toy, all_masked(toy)) < 4.5


@pytest.mark.parametrize("toy", [MILD, ROUGH, PROMPTED])
def test_rk4_is_exact_for_four_masked_tokens_in_a_single_step(toy):
    _, length, v = posterior_table(toy).shape
    masked = (all_sequences(length, v + 1) == v).sum(dim=1)
    law = (masked <= RK4_GROUPS).double()
    law /= law.sum()
    exact = one_by_one(toy, law)
    assert total_variation(walk("rk4", toy, law, [1.0, 0.0]), exact) < 1e-9
    assert total_variation(walk("euler", toy, law, [1.0, 0.0]), exact) > 1e-4


@every_solver
def test_one_token_at_a_time_is_exact(name):
    law = surely(ROUGH, [0, 1, 2, 1, 0])
    assert total_variation(walk(name, ROUGH, law, [1.0, 0.0]), one_by_one(ROUGH, law)) < 1e-12


@pytest.mark.parametrize("toy", [MILD, ROUGH])
@every_solver
def test_the_law_of_the_mask_count_is_exact(name, toy):
    """A fixed set, all of it and nothing else, is revealed whatever the posteriors are."""
    table = posterior_table(toy)
    length = table.size(1)
    masked = (all_sequences(length, table.size(2) + 1) == table.size(2)).sum(dim=1)
    for i in range(1, len(UNEQUAL)):
        law = walk(name, toy, all_masked(toy), UNEQUAL[: i + 1])
        counts = torch.zeros(length + 1, dtype=torch.float64).index_add(0, masked, law)
        m = UNEQUAL[i]
        binomial = [math.comb(length, k) * m**k * (1 - m) ** (length - k) for k in range(length + 1)]
        assert torch.allclose(counts, torch.tensor(binomial, dtype=torch.float64), atol=1e-12)


# ---- the pieces -----------------------------------------------------------------------------------------------------


def distributions(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, 6, generator=rng(seed), dtype=torch.float64).softmax(dim=1)


@pytest.mark.parametrize("by", [0.0, 0.5, 1.0, 3.0])
def test_extrapolation_is_a_distribution_linear_unless_clipped(by):
    now, change = distributions(200, 0), torch.linspace(0, 1, 200, dtype=torch.float64).unsqueeze(1)
    before = torch.lerp(now, distributions(200, 1), change)  # small changes and large ones
    linear = now + by * (now - before)
    result = extrapolate(now, before, by)
    assert bool((result >= 0).all()) and torch.allclose(result.sum(dim=1), torch.ones(200).double())
    free = (linear >= 0).all(dim=1)
    assert torch.allclose(result[free], linear[free]) and bool(free.any())
    assert bool((result[linear < 0] == 0).all()) and bool((linear < 0).any()) == (by > 0)
    kept = (linear >= 0) & ~free.unsqueeze(1)  # what clipping leaves keeps its proportions
    scale = linear.clamp(min=0).sum(dim=1, keepdim=True).expand_as(linear)
    assert torch.allclose(result[kept], (linear / scale)[kept])


def test_extrapolation_by_nothing_or_of_nothing_is_now():
    now, before = distributions(50, 0), distributions(50, 1)
    assert torch.allclose(extrapolate(now, before, 0.0), now)
    assert torch.allclose(extrapolate(now, now, 5.0), now)


def test_extrapolation_takes_one_factor_a_row():
    now, before, by = distributions(50, 0), distributions(50, 1), torch.rand(50, generator=rng(2))
    rows = [extrapolate(now[i : i + 1], before[i : i + 1], by[i].item()) for i in range(50)]
    assert torch.allclose(extrapolate(now, before, by), torch.cat(rows))


def test_posteriors_are_found_by_their_position():
    where = torch.rand(6, 7, generator=rng()) < 0.7
    of = torch.arange(42.0).view(6, 7, 1).expand(-1, -1, 3)
    some = where & (torch.rand(6, 7, generator=rng(1)) < 0.5)
    assert torch.equal(Posteriors(where, of[where], torch.ones(6)).at(some), of[some])


class Recorder(ReverseStep):
    """Writes down what a solver asks for and commits, one (B, L) bool each; every posterior is uniform."""

    def __init__(self, reveal: Tensor, time: Tensor):
        self.reveal, self.time = reveal, time
        self.soon, self.width, self.memory = torch.zeros_like(reveal), torch.ones(len(reveal)), None
        self.asked: list[Tensor] = []
        self.committed: list[Tensor] = []

    def posterior(self, where: Tensor) -> Tensor:
        self.asked.append(where)
        return torch.full((int(where.sum()), 2), 0.5)

    def commit(self, where: Tensor, probs: Tensor) -> None:
        assert probs.size(0) == int(where.sum())
        self.committed.append(where)


def recorded(name: str, rows: int = 300, length: int = 11, share: float | None = None) -> Recorder:
    share_of_row = torch.rand(rows, 1, generator=rng(2)) if share is None else share
    reveal = torch.rand(rows, length, generator=rng()) < share_of_row
    step = Recorder(reveal, torch.rand(rows, length, generator=rng(1)))
    SOLVERS[name].step(step)
    return step


@every_solver
def test_every_token_is_committed_once(name):
    step = recorded(name)
    assert torch.equal(torch.stack(step.committed).sum(dim=0), step.reveal.long())


def test_rk4_groups_are_balanced_and_in_order():
    step = recorded("rk4")
    groups = torch.stack(step.committed)  # (groups, B, L)
    assert len(groups) == RK4_GROUPS
    count, sizes = step.reveal.sum(dim=1), groups.sum(dim=2)
    assert count.unique().tolist() == list(range(12))
    few = sizes.amin(dim=0) == 0
    assert torch.equal(few, count < RK4_GROUPS)
    assert bool((sizes[:, few] <= 1).all())  # alone while there are groups enough
    assert bool((sizes.amax(dim=0) - sizes.amin(dim=0) <= 1).all())
    for early, late in pairwise(groups):
        last = torch.where(early, step.time, -1.0).amax(dim=1)
        first = torch.where(late, step.time, 2.0).amin(dim=1)
        assert bool((last < first).all())


@pytest.mark.parametrize("count", range(1, 8))
def test_rk4_costs_one_evaluation_a_token_and_four_at_most(count):
    step = recorded("rk4", rows=1, length=count, share=1.0)
    assert len(step.asked) == len(step.committed) == min(count, RK4_GROUPS)


def test_unipc_splits_at_the_middle_of_the_step():
    step = recorded("unipc", share=0.5)
    first, rest = step.committed
    assert len(step.asked) == 2 and torch.equal(step.asked[1], rest)
    early = step.reveal & (step.time < 0.5)
    empty = ~early.any(dim=1)
    assert bool((first[~empty] == early[~empty]).all())
    # With nothing in the first half the state is still the one at the start: no second evaluation.
    assert torch.equal(first[empty], step.reveal[empty]) and bool(step.reveal[empty].any())


class Drifting(ReverseStep):
    """All tokens of a few rows, whose posterior drifts linearly while alpha rises; notes what is committed."""

    def __init__(self, alpha: Tensor, width: Tensor, time: Tensor, memory: Posteriors | None = None):
        self.reveal = self.soon = torch.ones(time.shape, dtype=torch.bool)
        self.time, self.width, self.memory = time, width, memory
        self.alpha = alpha
        self.committed: list[Tensor] = []

    @staticmethod
    def drift(alpha: Tensor, where: Tensor) -> Tensor:
        column = torch.arange(where.size(1)).expand_as(where)[where]
        start, end = (torch.stack([p, 1 - p], dim=1) for p in (0.3 + 0.05 * column, 0.7 - 0.05 * column))
        return torch.lerp(start, end, alpha.unsqueeze(1).expand_as(where)[where].unsqueeze(1))

    def posterior(self, where: Tensor) -> Tensor:
        return self.drift(self.alpha, where)

    def commit(self, where: Tensor, probs: Tensor) -> None:
        self.committed.append(probs)
        if not bool((self.reveal & ~where).any()):
            return
        self.alpha = self.alpha + self.width / 2  # as far as tokens of the first half carry the state


def test_dpm_hits_the_middle_of_any_step_where_posteriors_are_linear_in_alpha():
    first_width, width = torch.tensor([0.1, 0.3, 0.2, 0.05]), torch.tensor([0.2, 0.1, 0.2, 0.5])
    alpha, time = torch.tensor([0.0, 0.1, 0.2, 0.4]), torch.zeros(4, 3)
    before = Drifting(alpha, first_width, time)
    SOLVERS["dpm"].step(before)
    step = Drifting(alpha + first_width, width, time, before.memory)
    SOLVERS["dpm"].step(step)
    assert torch.equal(before.committed[0], Drifting.drift(alpha, step.reveal))  # nothing to continue yet
    assert torch.allclose(step.committed[0], Drifting.drift(alpha + first_width + width / 2, step.reveal))


def test_unipc_hits_the_end_of_any_step_where_posteriors_are_linear_in_alpha():
    alpha, width, time = torch.tensor([0.0, 0.5]), torch.tensor([0.4, 0.2]), torch.tensor([0.1, 0.9, 0.4, 0.6])
    step = Drifting(alpha, width, time.expand(2, -1))
    SOLVERS["unipc"].step(step)
    early = (step.time < 0.5).expand(2, -1)
    assert torch.allclose(step.committed[0], Drifting.drift(alpha, early))
    assert torch.allclose(step.committed[1], Drifting.drift(alpha + width, ~early))


# ---- the torch sampler ----------------------------------------------------------------------------------------------

STEPS, ENDS = 3, (0.1, 0.8)  # levels 1, .9, .72, .38, .2, 0: no two neighbouring widths are equal


def prompted(name: str, schedule: str = "cosine", length: int = 4, **options) -> DiffusionGenerator:
    denoiser = TableDenoiser(3, sharpness=3.0)
    return sampler(denoiser, length, schedule, STEPS, ENDS, sampler="ancestral", solver=name, **options)


@every_solver
def test_sampler_has_the_enumerated_law_of_its_solver(name):
    n, generator = 20_000, prompted(name)
    mask_probs = levels(generator.schedule).flip(0).tolist()
    drawn = number(generator.generate(*prompts(n), rng()).ids, 4).bincount(minlength=4**4)
    assert chi_square_excess(drawn, n * walk(name, PROMPTED, all_masked(PROMPTED), mask_probs)) < 4
    for other in SOLVERS:
        if other != name:  # the test can tell them apart
            excess = chi_square_excess(drawn, n * walk(other, PROMPTED, all_masked(PROMPTED), mask_probs))
            assert excess > 20, other


@every_solver
def test_denoise_has_the_enumerated_law_between_any_two_levels(name):
    """Rows with different distances walk side by side and each has the law of its own walk."""
    n, generator = 20_000, prompted(name)
    walks, data = [(4, -1), (3, 1), (2, 0), (1, -1), (3, 3)], torch.tensor([2, 0, 1, 1])
    which = torch.arange(n) % len(walks)
    start, stop = torch.tensor(walks)[which].unbind(dim=1)
    u = uniform(n, 4, generator=rng(1), device="cpu")
    out = generator.denoise(*prompts(n), data.expand(n, -1), u, start, stop, rng())
    states = all_sequences(4, 4)
    for i, (first, last) in enumerate(walks):
        masked = generator.schedule.mask_prob(first)
        possible = ((states == data) | (states == 3)).all(dim=1)
        law = torch.where(states == 3, masked, 1 - masked).prod(dim=1) * possible
        mask_probs = levels(generator.schedule)[last + 1 : first + 2].flip(0).tolist()
        drawn = number(out.ids[which == i], 4).bincount(minlength=4**4)
        assert chi_square_excess(drawn, drawn.sum() * walk(name, PROMPTED, law, mask_probs)) < 4


def evaluations(name: str, times: list[float]) -> int:
    """What a step costs a row that reveals tokens at the given times."""
    if not times:
        return 0
    halves = {time < 0.5 for time in times}
    return {"euler": 1, "dpm": 1, "unipc": len(halves), "rk4": min(len(times), 4)}[name]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("schedule", ["cosine", "exponential"])
@every_solver
def test_evaluations_of_a_row_depend_on_its_uniform_numbers_alone(name, schedule, seed):
    generator = prompted(name, schedule, length=20)
    out = generator.generate(*prompts(30), rng(seed))
    u = RowNoise(rng(seed), 30, 20, torch.device("cpu")).everywhere(REVEAL)
    mask_probs = levels(generator.schedule).flip(0).tolist()
    expected = [
        sum(
            evaluations(name, [(a - x) / (a - b) for x in row if b <= x < a]) for a, b in pairwise(mask_probs) if a > b
        )
        for row in u.tolist()
    ]
    assert out.forwards.tolist() == expected


@every_solver
def test_tokens_are_revealed_in_the_order_of_their_uniform_numbers(name):
    out = prompted(name, length=20).generate(*prompts(30), rng())
    falling = RowNoise(rng(), 30, 20, torch.device("cpu")).everywhere(REVEAL).argsort(dim=1, descending=True)
    assert bool((out.step_map.gather(1, falling).diff(dim=1) >= 0).all())


def replayed(generator: DiffusionGenerator, out: Trajectory) -> Tensor:
    """Log-probability of every token by the denoiser's own posterior in the state before its step, (B, L)."""
    logps, rows = torch.zeros_like(out.commit_logps), len(out)
    for step in out.step_map.unique():
        here = out.step_map == step
        state = torch.cat([prompts(rows)[0], torch.where(out.step_map < step, out.ids, 3)], dim=1)
        where = torch.cat([torch.zeros(rows, 2, dtype=torch.bool), here], dim=1)
        found = (generator.denoiser.logits(state, None, where) / generator.temperature).log_softmax(dim=-1)
        logps[here] = found.gather(1, out.ids[here].unsqueeze(1)).squeeze(1)
    return logps


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@every_solver
def test_a_replay_finds_the_recorded_logps_iff_the_solver_is_exact(name, temperature):
    generator = prompted(name, length=8, temperature=temperature)
    out = generator.generate(*prompts(50), rng())
    assert out.exact == SOLVERS[name].exact == (name in ("euler", "rk4"))
    gap = (replayed(generator, out) - out.commit_logps).abs()
    assert gap.max() < 1e-4 if out.exact else gap.max() > 0.1


def test_dpm_starts_every_block_afresh():
    generator = sampler(
        TableDenoiser(3, sharpness=3.0), 8, "linear", 4, (0.3, 0.7), sampler="ancestral", solver="dpm", block_length=4
    )
    out = generator.generate(*prompts(100), rng())
    blocks = out.step_map.view(100, 2, 4)
    first = (blocks == blocks.amin(dim=2, keepdim=True)).view(100, 8)
    gap = (replayed(generator, out) - out.commit_logps).abs()
    assert gap[first].max() < 1e-4 and gap[~first].max() > 0.1
