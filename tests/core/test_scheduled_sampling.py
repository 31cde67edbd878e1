"""Training states of the model's own making: the same masks as without, the model's law where it walked, no traces."""

import math
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from toys import (
    MASK,
    PROMPT,
    VOCABULARY,
    ConstantDenoiser,
    TableDenoiser,
    TinyModel,
    all_sequences,
    assert_mean,
    chi_square_excess,
    number,
    prompts,
    rng,
    synced,
)

from core.alpha_schedule import SCHEDULES, AlphaSchedule
from core.denoisers import Denoiser, ModelDenoiser
from core.masking_strategy import DiffusionMaskingStrategy, FullMaskingStrategy
from core.nelbo import TrajectoryNELBOLoss
from core.sampling import SOLVERS
from core.scheduled_sampling import RAMP_SHAPES, STRATEGIES, RollOut, ScheduledSampling, exposure_bias
from core.scoring import COUPLINGS, Draws, LikelihoodEstimate

STEPS = 8  # T
ROWS = 4000
ALWAYS = {"probability": 1.0}
EVALUATIONS = {"euler": 1, "dpm": 1, "unipc": 2, "rk4": 4}  # of one transition, at most
VISIBLE, STAYS = 0.999, 0.0  # uniform numbers of tokens that are visible, masked, at every inner timestep
every_schedule = pytest.mark.parametrize("name", SCHEDULES)
every_coupling = pytest.mark.parametrize("coupling", COUPLINGS)
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
every_solver = pytest.mark.parametrize("solver", SOLVERS)


@pytest.fixture
def farthest(monkeypatch) -> str:
    """A strategy that always walks all the way: k = K."""
    monkeypatch.setitem(STRATEGIES, "farthest", lambda u, K: torch.full_like(u, K))
    return "farthest"


@dataclass(frozen=True)
class Case:
    """Data, states to train on, and their prompts."""

    masking: DiffusionMaskingStrategy
    nelbo: TrajectoryNELBOLoss
    ids: Tensor
    draws: Draws

    @property
    def prompt(self) -> tuple[Tensor, Tensor]:
        return prompts(self.ids.size(0))

    def roll_out(self, sampling: ScheduledSampling, denoiser: Denoiser, step: int = 0, seed: int = 7, **options):
        return sampling.roll_out(
            denoiser, self.masking, *self.prompt, self.ids, self.draws, step, rng(seed), **options
        )

    def score(self, denoiser: Denoiser, draws: Draws) -> LikelihoodEstimate:
        return self.nelbo.score(denoiser, *self.prompt, self.ids, draws)


def drawn(name: str = "cosine", coupling: str = "nested", rows: int = 40, length: int = 6, ids=None) -> Case:
    """Random data, or the rows ``ids``, on four drawn states each."""
    masking, nelbo = synced(name, STEPS, source="forward", num_draws=4, coupling=coupling)
    masking.p_mask_prompt = 0.5
    ids = torch.randint(VOCABULARY, (rows, length), generator=rng(3)) if ids is None else ids
    return Case(masking, nelbo, ids, nelbo.draw(masking, *ids.shape, len(PROMPT), rng()))


def arranged(u: list[float], timestep: int, ids: Tensor, num_draws: int = 1) -> Case:
    """States at one timestep whose tokens have the given uniform numbers; the schedule is linear."""
    masking, nelbo = synced("linear", STEPS, source="forward", num_draws=num_draws)
    shape = (ids.size(0), num_draws)
    at, numbers = torch.full(shape, timestep), torch.tensor(u, dtype=torch.float64).expand(*shape, -1)
    hidden = masking.hide(numbers, at)
    draws = Draws(
        hidden=hidden,
        scored=hidden,
        prompt_hidden=torch.zeros(*shape, len(PROMPT), dtype=torch.bool),
        weight=(1 / (nelbo.schedule.mask_prob(at) * num_draws)).float(),
        timestep=at,
        variance_factor=torch.ones(shape[0]),
        u=numbers,
    )
    return Case(masking, nelbo, ids, draws)


def inside(transition: int, share: float = 0.5) -> float:
    """The uniform number of a token that is revealed by a transition of the linear schedule, so far into it."""
    schedule = AlphaSchedule("linear", STEPS)
    return (schedule.mask_prob(transition) - share * schedule.width(transition)).item()


def assert_same_estimate(one: LikelihoodEstimate, other: LikelihoodEstimate) -> None:
    for field in fields(LikelihoodEstimate):
        assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name


# ---- off is off -----------------------------------------------------------------------------------------------------

NEVER_ROLLS = [
    {},
    {"max_step_offset": 5},
    {"probability": 0.5},
    {"ramp_steps": 10, "prob_start": 0.5},
    {"max_step_offset": 5, "probability": 0.5, "ramp_steps": 10, "prob_end": 0.0},
]
NOT_YET = {"max_step_offset": 5, "probability": 0.5, "ramp_steps": 10, "start_step": 3}


@pytest.mark.parametrize("options", NEVER_ROLLS)
def test_without_offset_or_probability_no_step_can_roll_out(options):
    sampling = ScheduledSampling(**options)
    assert not sampling.active
    assert [sampling.probability_at(step) for step in (0, 5, 10, 1000)] == [0.0] * 4


@pytest.mark.parametrize(
    "options",
    [ALWAYS, {"probability": 0.01}, {"ramp_steps": 1}, {"ramp_steps": 1, "prob_start": 0.1, "prob_end": 0.0}],
)
def test_an_offset_and_a_chance_make_it_active(options):
    sampling = ScheduledSampling(1, **options)
    assert sampling.active and max(sampling.probability_at(step) for step in (0, 1)) > 0


@every_coupling
@pytest.mark.parametrize("options", [*NEVER_ROLLS, NOT_YET])
def test_without_a_chance_nothing_is_evaluated_and_the_estimate_is_the_same_bit_for_bit(options, coupling):
    case, denoiser = drawn(coupling=coupling), TableDenoiser()
    before = case.score(TableDenoiser(), case.draws)
    out = case.roll_out(ScheduledSampling(**options), denoiser, step=3)
    assert out.forwards == 0 and denoiser.rows_seen == []
    assert torch.equal(out.draws.shown, case.ids.unsqueeze(1).expand(-1, 4, -1))
    assert not bool(out.draws.rolled_out.any() | out.offset.any() | out.self_revealed.any() | out.wrong.any())
    assert_same_estimate(case.score(TableDenoiser(), out.draws), before)


# ---- when: the probability and its ramp -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "quarter"), [("linear", 0.25), ("cosine", math.sin(math.pi / 8) ** 2)], ids=["linear", "cosine"]
)
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.3), (0.5, 0.1), (0.2, 0.2), (0.0, 1.0)])
def test_the_ramp_goes_from_start_to_end_in_its_shape(start, end, shape, quarter):
    sampling = ScheduledSampling(4, 0.9, 100, start, end, start_step=1000, ramp_shape=shape)
    shares = {0: 0.0, 999: 0.0, 1000: 0.0, 1025: quarter, 1050: 0.5, 1075: 1 - quarter, 1100: 1.0, 9000: 1.0}
    found = [sampling.probability_at(step) for step in shares]
    assert found == pytest.approx([start + (end - start) * share for share in shares.values()], abs=1e-12)


def test_without_a_ramp_the_probability_is_constant():
    sampling = ScheduledSampling(4, 0.3, ramp_steps=0, prob_start=0.7, start_step=100)
    assert [sampling.probability_at(step) for step in (0, 100, 5000)] == [0.3] * 3


def test_every_ramp_shape_is_tested():
    assert set(RAMP_SHAPES) == {"linear", "cosine"}


@pytest.mark.parametrize(
    ("options", "expected"), [({"probability": 0.3}, 0.3), ({"ramp_steps": 10, "prob_end": 0.6}, 0.24)]
)
def test_the_coin_is_thrown_once_a_sequence_with_the_probability_of_the_step(options, expected):
    timestep = torch.zeros(ROWS, 6, dtype=torch.int64)
    source, rolled_out = ScheduledSampling(1, **options).draw_sources(timestep, STEPS, 4, rng())
    assert_mean(rolled_out, expected)
    # k is 1 in half of the states of the sequences that are rolled out, in none of the others.
    assert_mean(source[rolled_out].double().mean(dim=1), 0.5)
    assert not bool(source[~rolled_out].any())


# ---- from where: the law of k ---------------------------------------------------------------------------------------


def offset_law(strategy: str, longest: int) -> Tensor:
    """P(k), k = 0..K, from the definitions: round(U^2 K) = k iff U^2 K lies between k - 1/2 and k + 1/2."""
    if strategy == "uniform":
        return torch.full((longest + 1,), 1 / (longest + 1))
    edges = ((torch.arange(longest + 2) - 0.5) / longest).clamp(0, 1).sqrt()
    early = edges.diff()
    return {"biased_early": early, "biased_late": early.flip(0)}[strategy]  # (1 - U^2) K = K - U^2 K


@pytest.mark.parametrize("longest", [1, 2, 7, 50])
@every_strategy
def test_offsets_follow_the_law_of_their_strategy(strategy, longest):
    sampling = ScheduledSampling(longest, 0.4, strategy=strategy)
    timestep = torch.zeros(10 * ROWS, 2, dtype=torch.int64)
    source, rolled_out = sampling.draw_sources(timestep, 1000, 0, rng())
    offset, law = source[rolled_out], offset_law(strategy, longest)
    counts = torch.bincount(offset.flatten(), minlength=longest + 1)
    assert chi_square_excess(counts, law * offset.numel()) < 4
    gap = offset.double() - (law * torch.arange(longest + 1)).sum()
    assert_mean(gap[:, 0] * gap[:, 1], 0.0)  # each state of a sequence has its own


@every_strategy
def test_the_source_is_clamped_to_the_noisiest_timestep_and_all_masked_states_stay(strategy):
    timestep = torch.arange(STEPS + 2).expand(300, -1)
    sampling = ScheduledSampling(5, **ALWAYS, strategy=strategy)
    free, _ = sampling.draw_sources(timestep, 1000, 0, rng())
    clamped, _ = sampling.draw_sources(timestep, STEPS, 0, rng())
    assert bool((free[:, :-1] > STEPS).any())
    assert torch.equal(clamped[:, :-1], free[:, :-1].clamp(max=STEPS))
    assert bool((clamped[:, -1] == STEPS + 1).all())


# ---- coupled masks --------------------------------------------------------------------------------------------------


@every_coupling
@every_schedule
def test_masks_targets_and_weights_are_those_without_rollout(name, coupling):
    case = drawn(name, coupling)
    out = case.roll_out(ScheduledSampling(3, 0.7), TableDenoiser())
    untouched = drawn(name, coupling).draws
    for field in ("hidden", "scored", "prompt_hidden", "weight", "timestep", "variance_factor", "u"):
        assert torch.equal(getattr(out.draws, field), getattr(untouched, field)), field
    assert torch.equal(case.draws.hidden, untouched.hidden) and case.draws.shown is None
    assert torch.equal(case.nelbo.token_weight(out.draws), case.nelbo.token_weight(untouched))


@every_solver
@every_coupling
@every_schedule
def test_exactly_the_tokens_between_the_two_levels_are_the_models_own(name, coupling, solver):
    case = drawn(name, coupling)
    out = case.roll_out(ScheduledSampling(3, 0.7, sampler=solver), TableDenoiser())
    timestep, schedule = out.draws.timestep, case.nelbo.schedule
    stop, start = (schedule.mask_prob(t).unsqueeze(2) for t in (timestep, timestep + out.offset))
    assert torch.equal(out.self_revealed, (stop <= out.draws.u) & (out.draws.u < start))
    data = case.ids.unsqueeze(1).expand_as(out.draws.shown)
    assert torch.equal(out.draws.shown != data, out.wrong)
    assert not bool((out.wrong & ~out.self_revealed).any() | (out.self_revealed & out.draws.hidden).any())
    assert bool(out.wrong.any()) and bool((out.self_revealed & ~out.wrong).any())
    assert bool((out.draws.shown != MASK).all())
    assert not bool((out.offset[~out.draws.rolled_out] != 0).any())
    assert bool((timestep + out.offset <= STEPS)[timestep <= STEPS].all())


def test_every_solver_reveals_the_same_tokens():
    case = drawn()
    first, *others = (case.roll_out(ScheduledSampling(3, 0.7, sampler=name), TableDenoiser()) for name in SOLVERS)
    for out in others:
        assert torch.equal(out.self_revealed, first.self_revealed) and torch.equal(out.offset, first.offset)


def test_a_longer_walk_makes_more_tokens_the_models_own(farthest):
    case = drawn(rows=300)
    shares = []
    for longest in (1, 2, 4, STEPS):
        out = case.roll_out(ScheduledSampling(longest, **ALWAYS, strategy=farthest), TableDenoiser())
        shares.append(out.self_revealed.double().mean().item())
    assert shares == sorted(shares) and shares[0] > 0


# ---- what is shown: the model's law ---------------------------------------------------------------------------------


def posterior(state: list[int], position: int, temperature: float = 1.0) -> Tensor:
    """TableDenoiser's p(token at a position | canvas, PROMPT), (V,)."""
    ids = torch.cat([PROMPT, torch.tensor(state)]).unsqueeze(0)
    rows = torch.zeros_like(ids, dtype=torch.bool)
    rows[0, len(PROMPT) + position] = True
    logits = TableDenoiser().logits(ids, torch.ones_like(ids), rows)[0, :VOCABULARY]
    return (logits / temperature).softmax(dim=0)


def joint(first: int, second: int) -> tuple[Tensor, Tensor]:
    """The laws of tokens 0 and 1, as tables of 9: drawn one after the other, and both from the state before."""
    state = [MASK, MASK, MASK, 0]
    alone = posterior(state, first)
    table = torch.zeros(VOCABULARY, VOCABULARY)
    for token in range(VOCABULARY):
        state[first] = token
        table[token] = alone[token] * posterior(state, second)
    state[first] = MASK
    product = torch.outer(alone, posterior(state, second))
    return tuple((law if first < second else law.T).flatten() for law in (table, product))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@every_solver
def test_a_rolled_out_token_is_a_sample_of_the_models_posterior(solver, temperature, farthest):
    ids = torch.tensor([2, 1, 0, 1]).expand(ROWS, -1)
    case = arranged([inside(4), STAYS, VISIBLE, VISIBLE], 3, ids, num_draws=2)
    sampling = ScheduledSampling(1, **ALWAYS, strategy=farthest, sampler=solver)
    out = case.roll_out(sampling, TableDenoiser(), temperature=temperature)
    assert out.self_revealed.sum(dim=(0, 1)).tolist() == [2 * ROWS, 0, 0, 0]
    counts = torch.bincount(out.draws.shown[..., 0].flatten(), minlength=VOCABULARY)
    law = posterior([MASK, MASK, 0, 1], 0, temperature)
    assert chi_square_excess(counts, law * 2 * ROWS) < 4
    other = posterior([MASK, MASK, 0, 1], 0, 1.5 - temperature)
    assert chi_square_excess(counts, other * 2 * ROWS) > 20  # the test can tell


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0)])
@pytest.mark.parametrize(
    ("solver", "transitions"), [("rk4", (4, 4)), ("rk4", (5, 4)), ("euler", (5, 4)), ("unipc", (5, 4))]
)
def test_two_tokens_follow_the_sequential_law_in_the_order_of_their_uniforms(
    solver, transitions, first, second, farthest
):
    u = [STAYS, STAYS, STAYS, VISIBLE]
    u[first], u[second] = inside(transitions[0], 0.3), inside(transitions[1], 0.6)
    case = arranged(u, 3, torch.zeros(ROWS, 4, dtype=torch.int64))
    out = case.roll_out(ScheduledSampling(2, **ALWAYS, strategy=farthest, sampler=solver), TableDenoiser())
    counts = torch.bincount(number(out.draws.shown[:, 0, :2]), minlength=VOCABULARY**2)
    sequential, product = joint(first, second)
    assert chi_square_excess(counts, sequential * ROWS) < 4
    assert chi_square_excess(counts, product * ROWS) > 20  # the test can tell


def test_tokens_of_one_euler_step_do_not_see_each_other(farthest):
    case = arranged([inside(4, 0.3), inside(4, 0.6), STAYS, VISIBLE], 3, torch.zeros(ROWS, 4, dtype=torch.int64))
    out = case.roll_out(ScheduledSampling(1, **ALWAYS, strategy=farthest, sampler="euler"), TableDenoiser())
    counts = torch.bincount(number(out.draws.shown[:, 0, :2]), minlength=VOCABULARY**2)
    assert chi_square_excess(counts, joint(0, 1)[1] * ROWS) < 4


@every_solver
def test_rows_that_walk_side_by_side_do_not_disturb_each_other(solver, farthest):
    ids = all_sequences(4)
    whole = drawn(ids=ids)
    sampling = ScheduledSampling(3, **ALWAYS, strategy=farthest, sampler=solver)
    together = whole.roll_out(sampling, TableDenoiser(), temperature=0.0)
    assert len(together.offset.unique()) == 4  # clamped at T some have less to go
    for row in range(0, len(ids), 4):
        alone = replace(whole, ids=ids[row : row + 1], draws=whole.draws.rows(slice(row, row + 1)))
        out = alone.roll_out(sampling, TableDenoiser(), temperature=0.0)  # greedy: nothing is left to chance
        assert torch.equal(out.draws.shown[0], together.draws.shown[row])


@every_solver
def test_the_walk_costs_its_longest_distance_not_the_sum(solver):
    case, denoiser = drawn(rows=60, length=30), TableDenoiser()
    sampling = ScheduledSampling(4, **ALWAYS, sampler=solver)
    out = case.roll_out(sampling, denoiser)
    longest = int(out.offset.max())
    assert longest == 4 and int(out.offset.sum()) > 100
    assert out.forwards == len(denoiser.rows_seen) == longest * EVALUATIONS[solver]
    # A row is evaluated on its own way only.
    assert sum(denoiser.rows_seen) <= int(out.offset.sum()) * EVALUATIONS[solver]
    few = drawn(rows=2, length=4).roll_out(sampling, TableDenoiser())  # steps that reveal nothing cost nothing
    assert few.forwards <= int(few.offset.max()) * EVALUATIONS[solver]


class Recording(TableDenoiser):
    """Keeps the states and attention masks of every evaluation."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def logits(self, ids: Tensor, attention_mask: Tensor | None, rows: Tensor) -> Tensor:
        self.seen.append((ids.clone(), attention_mask))
        return super().logits(ids, attention_mask, rows)


def test_the_walk_sees_the_prompt_of_the_scored_state(farthest):
    ids = torch.randint(VOCABULARY, (20, 4), generator=rng(3))
    case = arranged([inside(4), STAYS, VISIBLE, VISIBLE], 3, ids, num_draws=2)
    prompt_ids = torch.randint(VOCABULARY, (20, 5), generator=rng(4))
    prompt_mask = (torch.arange(5) >= torch.arange(20).unsqueeze(1) % 4).long()
    draws = replace(case.draws, prompt_hidden=torch.rand(20, 2, 5, generator=rng(5)) < 0.5)
    recorder, sampling = Recording(), ScheduledSampling(1, **ALWAYS, strategy=farthest)
    out = sampling.roll_out(recorder, case.masking, prompt_ids, prompt_mask, ids, draws, 0, rng())
    case.nelbo.score(recorder, prompt_ids, prompt_mask, ids, out.draws)
    (walked, attended), (scored, attention_mask) = recorder.seen
    assert torch.equal(walked[:, :5], scored[:, :5]) and torch.equal(attended, attention_mask)
    hidden = (draws.prompt_hidden & prompt_mask.bool().unsqueeze(1)).flatten(0, 1)
    assert torch.equal(walked[:, :5] == MASK, hidden) and bool(hidden.any())
    # One step with one token: apart from that token the walk has been in the state that is scored.
    assert torch.equal(walked[:, 5] == MASK, torch.ones(40, dtype=torch.bool))
    assert torch.equal(scored[:, 5], out.draws.shown[..., 0].flatten())
    assert torch.equal(walked[:, 6:], scored[:, 6:])


# ---- no traces ------------------------------------------------------------------------------------------------------


class Dropping(nn.Module):
    """A model with dropout that notes how it is called, and may fail."""

    def __init__(self, fails_at: int | None = None):
        super().__init__()
        self.inner, self.dropout, self.fails_at = TinyModel(VOCABULARY + 1), nn.Dropout(0.5), fails_at
        self.modes: list[bool] = []
        self.train()
        self.inner.embedding.eval()  # say, frozen
        self.inner.embedding.requires_grad_(False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
        self.modes.append(torch.is_grad_enabled() or any(module.training for module in self.modules()))
        if len(self.modes) == self.fails_at:
            raise RuntimeError("out of memory")
        logits = self.inner(input_ids, attention_mask).logits
        return SimpleNamespace(logits=self.dropout(logits))


def trace(model: nn.Module) -> list:
    """The mode of every module and the gradient state of every parameter, by name."""
    modes = [(name, module.training) for name, module in model.named_modules()]
    return modes + [(name, p.requires_grad, p.grad) for name, p in model.named_parameters()]


@every_solver
def test_the_walk_is_without_dropout_and_gradient_and_leaves_no_trace(solver):
    model, case = Dropping(), drawn()
    before, state = trace(model), torch.get_rng_state()
    denoiser = ModelDenoiser(model, MASK)
    out = case.roll_out(ScheduledSampling(3, **ALWAYS, sampler=solver), denoiser)
    assert model.modes and not any(model.modes)
    assert trace(model) == before and len({training for _, training, *_ in before}) == 2
    assert torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled()
    assert not out.draws.shown.requires_grad
    case.score(denoiser, out.draws).sequence_bound.sum().backward()  # training goes on as usual
    assert model.modes[-1] and bool(model.inner.head.weight.grad.any())


def test_a_model_that_fails_on_the_way_is_left_as_it_was():
    model = Dropping(fails_at=2)
    before, state = trace(model), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="out of memory"):
        drawn().roll_out(ScheduledSampling(3, **ALWAYS), ModelDenoiser(model, MASK))
    assert trace(model) == before and torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled()


@every_solver
def test_rollouts_repeat_with_the_generator(solver):
    case, sampling = drawn(), ScheduledSampling(3, 0.7, sampler=solver)
    one, two, other = (case.roll_out(sampling, TableDenoiser(), seed=seed) for seed in (7, 7, 8))
    assert torch.equal(one.draws.shown, two.draws.shown) and torch.equal(one.offset, two.offset)
    assert torch.equal(one.draws.rolled_out, two.draws.rolled_out)
    assert not torch.equal(one.draws.rolled_out, other.draws.rolled_out)


def test_the_tokens_of_the_walk_come_from_the_generator(farthest):
    case, sampling = drawn(), ScheduledSampling(3, **ALWAYS, strategy=farthest)
    one, other = (case.roll_out(sampling, TableDenoiser(), seed=seed) for seed in (7, 8))
    assert torch.equal(one.self_revealed, other.self_revealed)
    assert not torch.equal(one.draws.shown, other.draws.shown)


# ---- exposure bias --------------------------------------------------------------------------------------------------


class CopyDenoiser(Denoiser):
    """Trusts what it sees: p(the first visible token of the completion) = ``same`` everywhere, the others share the
    rest; uniform where all is masked."""

    def __init__(self, same: float, vocabulary: int = VOCABULARY):
        self.mask_id, self.same, self.vocabulary = vocabulary, same, vocabulary

    def logits(self, ids: Tensor, attention_mask: Tensor | None, rows: Tensor) -> Tensor:
        completion = ids[:, len(PROMPT) :]
        visible = completion != self.mask_id
        first = completion.gather(1, visible.int().argmax(dim=1, keepdim=True))  # (B, 1)
        probs = torch.full((len(ids), self.vocabulary + 1), (1 - self.same) / (self.vocabulary - 1))
        probs.scatter_(1, first, self.same)
        probs[~visible.any(dim=1)] = 1 / self.vocabulary
        probs[:, self.mask_id] = 0.0
        return probs.log()[rows.nonzero()[:, 0]]


def test_a_denoiser_that_ignores_what_it_sees_has_no_exposure_bias():
    case, denoiser = drawn(), ConstantDenoiser([0.5, -1.0, 0.2])
    out = case.roll_out(ScheduledSampling(4, 0.7), denoiser)
    rolled, clean = exposure_bias(case.nelbo, denoiser, *case.prompt, case.ids, out.draws)
    assert bool(out.wrong.any()) and clean.sum() > 0
    assert torch.equal(rolled, clean)


def test_a_denoiser_that_trusts_its_mistakes_has():
    ids = torch.arange(VOCABULARY).repeat(200).unsqueeze(1).expand(-1, 6)  # all tokens of a text are equal
    case, denoiser = drawn(ids=ids), CopyDenoiser(0.9)
    out = case.roll_out(ScheduledSampling(4, 0.7), denoiser)
    rolled, clean = exposure_bias(case.nelbo, denoiser, *case.prompt, ids, out.draws)
    assert len(rolled) == len(clean) == int(out.draws.rolled_out.sum())
    excess = (rolled - clean).double()
    assert excess.mean() > 5 * excess.std() / len(excess) ** 0.5
    whole = case.score(denoiser, case.draws).sequence_bound
    assert torch.equal(clean, whole[out.draws.rolled_out])  # an estimate of the bound


def test_exposure_bias_of_one_wrong_token_is_what_it_costs_by_hand():
    ids = torch.tensor([[0, 0, 0], [1, 1, 1], [2, 2, 2]])
    case = arranged([VISIBLE, STAYS, STAYS], 4, ids)
    shown = torch.tensor([[[1, 0, 0]], [[2, 1, 1]], [[2, 2, 2]]])
    draws = replace(case.draws, shown=shown, rolled_out=torch.tensor([True, False, True]))
    rolled, clean = exposure_bias(case.nelbo, CopyDenoiser(0.9), *case.prompt, ids, draws)
    weight = 2 / case.nelbo.schedule.mask_prob(4).item()  # two hidden tokens
    right, wrong = -weight * math.log(0.9), -weight * math.log(0.05)
    assert rolled.tolist() == pytest.approx([wrong, right], rel=1e-5)
    assert clean.tolist() == pytest.approx([right, right], rel=1e-5)


def test_exposure_bias_is_measured_without_dropout_and_gradient_and_leaves_no_trace():
    model, case = Dropping(), drawn()
    before, denoiser = trace(model), ModelDenoiser(model, MASK)
    draws = case.roll_out(ScheduledSampling(3, **ALWAYS), denoiser).draws
    rolled, clean = exposure_bias(case.nelbo, denoiser, *case.prompt, case.ids, draws)
    assert not any(model.modes) and not rolled.requires_grad and not clean.requires_grad
    assert trace(model) == before


def test_exposure_bias_is_that_of_the_policys_temperature():
    case = drawn()
    draws = case.roll_out(ScheduledSampling(3, **ALWAYS), TableDenoiser()).draws
    found = exposure_bias(case.nelbo, TableDenoiser(), *case.prompt, case.ids, draws, 0.5)
    for bound, states in zip(found, (draws, case.draws), strict=True):
        expected = case.nelbo.score(TableDenoiser(), *case.prompt, case.ids, states, 0.5).sequence_bound
        assert torch.equal(bound, expected)


# ---- what it does to the optimum ------------------------------------------------------------------------------------


def pairs(same: float, farthest: str, fraction: float) -> tuple[Case, RollOut]:
    """Two tokens over two letters, equal with probability ``same``: the first visible, the second to be predicted.

    The sequences of a ``fraction`` show a first token that the model drew on the empty canvas: a fair coin, which the
    data had no part in.
    """
    first = torch.randint(2, (ROWS, 1), generator=rng(3))
    differs = torch.rand(ROWS, 1, generator=rng(4)) >= same
    case = arranged([inside(STEPS), STAYS], STEPS - 1, torch.cat([first, first ^ differs], dim=1))
    sampling = ScheduledSampling(1, fraction, strategy=farthest)
    return case, case.roll_out(sampling, CopyDenoiser(same, vocabulary=2))


@pytest.mark.parametrize(("fraction", "optimum"), [(0.0, 1.0), (0.25, 0.875), (0.5, 0.75), (1.0, 0.5)])
def test_self_revealed_states_teach_to_ignore_what_is_visible(fraction, optimum, farthest):
    # With probability f the shown token is independent of the target, which then equals it half of the time:
    # the optimal p(second = shown first) is 1 - f + f / 2, and 1/2 at f = 1, as if nothing was visible (Huszar 2015).
    assert optimum == 1 - fraction + fraction / 2
    case, out = pairs(1.0, farthest, fraction)
    agrees = out.draws.shown[:, 0, 0] == case.ids[:, 1]
    assert_mean(agrees, optimum)
    candidates = [i / 16 for i in range(1, 17)]
    losses = [case.score(CopyDenoiser(p, 2), out.draws).sequence_bound.mean().item() for p in candidates]
    assert candidates[losses.index(min(losses))] == optimum


def test_even_the_true_conditionals_pay_for_states_that_are_not_the_datas(farthest):
    # A model that is right in every state, so without any bias, still loses where the shown token is its own: the
    # target goes with the token that was replaced. H(c) becomes the cross-entropy of a fair coin.
    c = 0.8
    case, out = pairs(c, farthest, 0.5)
    rolled, clean = exposure_bias(case.nelbo, CopyDenoiser(c, 2), *case.prompt, case.ids, out.draws)
    weight = case.draws.weight[out.draws.rolled_out, 0]
    assert_mean(clean / weight, -c * math.log(c) - (1 - c) * math.log(1 - c))
    assert_mean(rolled / weight, -(math.log(c) + math.log(1 - c)) / 2)


# ---- metrics and errors ---------------------------------------------------------------------------------------------


def handmade(rolled_out: list[bool], self_revealed: list[list[int]], wrong: list[list[int]]) -> RollOut:
    case = drawn(rows=3, length=4)
    draws = replace(case.draws.rows(slice(3)), rolled_out=torch.tensor(rolled_out), shown=None)
    own, faults = (torch.tensor(cells).bool().unsqueeze(1).expand(-1, 4, -1) for cells in (self_revealed, wrong))
    offset = torch.tensor([[2, 0, 1, 1], [0, 0, 0, 0], [4, 4, 0, 3]]) * torch.tensor(rolled_out).unsqueeze(1)
    return RollOut(draws, offset, own, faults, forwards=5)


def test_metrics_are_means_over_what_they_speak_of():
    own, faults = [[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]], [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
    found = handmade([True, False, True], own, faults).metrics()
    assert found == pytest.approx({"forwards": 5.0, "rolled_out": 2 / 3, "mean_offset": 15 / 8, "accuracy": 3 / 5})


def test_metrics_of_nothing_are_left_out():
    none = [[0] * 4] * 3
    assert handmade([False] * 3, none, none).metrics() == {"forwards": 5.0, "rolled_out": 0.0}
    assert set(handmade([True] * 3, none, none).metrics()) == {"forwards", "rolled_out", "mean_offset"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ramp_shape": "step"}, "ramp_shape.*step.*" + ", ".join(RAMP_SHAPES)),
        ({"strategy": "late"}, "strategy.*late.*" + ", ".join(STRATEGIES)),
        ({"sampler": "heun"}, "sampler.*heun.*" + ", ".join(SOLVERS)),
        ({"probability": 1.1}, r"probability=1\.1.*\[0, 1\]"),
        ({"probability": math.nan}, r"probability=nan.*\[0, 1\]"),
        ({"prob_start": -0.1}, r"prob_start=-0\.1.*\[0, 1\]"),
        ({"prob_end": 2.0}, r"prob_end=2\.0.*\[0, 1\]"),
        ({"max_step_offset": -1}, "max_step_offset=-1"),
        ({"ramp_steps": -1}, "ramp_steps=-1"),
        ({"start_step": -1}, "start_step=-1"),
    ],
)
def test_impossible_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ScheduledSampling(**arguments)


def test_states_without_timesteps_cannot_be_continued():
    case, sampling = drawn(), ScheduledSampling(3, **ALWAYS)
    without_u = replace(case, draws=replace(case.draws, u=None))
    without_time = replace(case, masking=FullMaskingStrategy())
    for broken in (without_u, without_time):
        with pytest.raises(ValueError, match=r"loss\.source='forward'"):
            broken.roll_out(sampling, TableDenoiser())
