"""The Monte-Carlo bound against the oracle, its own error bar, and the replay of rollouts."""

import itertools
from dataclasses import fields, replace

import pytest
import torch
from toys import (
    MASK,
    PROMPT,
    VOCABULARY,
    ConstantDenoiser,
    TableDenoiser,
    assert_mean,
    chi_square_excess,
    prompts,
    rng,
    sampler,
    synced,
)

from core.alpha_schedule import SCHEDULES
from core.denoisers.denoiser import Denoiser, tempered_logps
from core.masking_strategy import DiffusionMaskingStrategy
from core.nelbo import SOURCES, TrajectoryNELBOLoss
from core.oracles.exact import conditional_logps, exact_nelbo
from core.sampling.samplers import SAMPLERS
from core.sampling.selection import SELECTIONS
from core.sampling.solvers import SOLVERS
from core.scoring import COUPLINGS, REPLAYS, WHOLE, Draws, LikelihoodEstimate, Share, predict_states
from core.trajectory import NEVER, Trajectory

IDS = torch.tensor([2, 0, 1, 1])
ROWS = 4000
DENOISER = TableDenoiser()
every_schedule = pytest.mark.parametrize("name", SCHEDULES)
every_coupling = pytest.mark.parametrize("coupling", COUPLINGS)
every_replay = pytest.mark.parametrize("replay", REPLAYS)


@pytest.fixture(scope="module")
def table() -> torch.Tensor:
    return conditional_logps(DENOISER, PROMPT, IDS)


def estimates(name: str, denoiser: Denoiser = DENOISER, rows: int = ROWS, seed: int = 0, **loss) -> LikelihoodEstimate:
    """As many independent estimates of the bound of IDS."""
    masking, nelbo = synced(name, source="forward", **loss)
    return nelbo(denoiser, masking, *prompts(rows), IDS.expand(rows, -1), rng(seed))


def rollout(rows: int = 12, length: int = 6, **options) -> Trajectory:
    return sampler(DENOISER, length, steps=6, **options).generate(*prompts(rows), rng(1))


def replay_of(out: Trajectory, replay: str, num_draws: int = 2, temperature: float = 1.0) -> LikelihoodEstimate:
    masking, nelbo = synced(source="rollout", replay=replay, num_draws=num_draws)
    draws = nelbo.draw(masking, *out.ids.shape, 2, rng(), trajectory=out)
    return nelbo.score(DENOISER, *prompts(len(out)), out.ids, draws, temperature)


def repeated(out: Trajectory, row: int) -> Trajectory:
    return out[torch.full((ROWS,), row)]


def assert_calibrated(estimate: LikelihoodEstimate) -> None:
    """The squared error bars average to the variance of the bound."""
    bound = estimate.sequence_bound.double()
    assert bound.var() > 0
    assert_mean(estimate.standard_error.double() ** 2 - (bound - bound.mean()) ** 2, 0.0)


# ---- forward: an unbiased estimate of the exact bound ---------------------------------------------------------------


@pytest.mark.parametrize("num_draws", [2, 4, 6])
@every_coupling
@every_schedule
def test_estimate_agrees_with_the_exact_bound(name, coupling, num_draws, table):
    _, nelbo = synced(name)
    bound = estimates(name, num_draws=num_draws, coupling=coupling).sequence_bound
    assert_mean(bound, exact_nelbo(table, nelbo.schedule).item(), sigmas=3)


@every_coupling
@every_schedule
def test_each_token_gets_its_own_share_of_the_exact_bound(name, coupling, table):
    _, nelbo = synced(name)
    estimate = estimates(name, num_draws=4, coupling=coupling)
    shares = torch.stack([exact_nelbo(table * (torch.arange(4) == i), nelbo.schedule) for i in range(4)])
    assert_mean(estimate.token_bound, shares)
    assert torch.allclose(estimate.token_bound.sum(dim=1), estimate.sequence_bound, rtol=1e-4)


@every_coupling
@pytest.mark.parametrize(("masks", "weights"), itertools.permutations(SCHEDULES, 2))
def test_masks_from_one_schedule_and_weights_from_another_bound_nothing(masks, weights, coupling, table):
    masking, nelbo = DiffusionMaskingStrategy(0.0, 8, masks), TrajectoryNELBOLoss(8, weights, num_draws=4)
    estimate = nelbo(DENOISER, masking, *prompts(ROWS), IDS.expand(ROWS, -1), rng())
    error = estimate.sequence_bound.std().item() / ROWS**0.5
    for schedule in (masking.schedule, nelbo.schedule):
        assert abs(estimate.sequence_bound.mean().item() - exact_nelbo(table, schedule).item()) > 5 * error


@every_coupling
@every_schedule
def test_standard_error_is_calibrated(name, coupling):
    assert_calibrated(estimates(name, num_draws=4, coupling=coupling, rows=2 * ROWS))


@pytest.mark.parametrize(
    ("coupling", "num_draws"),
    [("nested", 1), ("nested", 3), ("independent", 1), ("antithetic", 2), ("antithetic", 6)],
)
def test_standard_error_is_unknown_without_replicates(coupling, num_draws):
    estimate = estimates("cosine", num_draws=num_draws, coupling=coupling, rows=50)
    assert bool(estimate.standard_error.isnan().all()) and bool(estimate.sequence_bound.isfinite().all())


class TemperedRows(Denoiser):
    """TABLE's logits times one parameter per batch row, so that each estimate has a gradient of its own."""

    def __init__(self, rows: int):
        self.mask_id, self.theta = MASK, torch.ones(rows, requires_grad=True)

    def logits(self, ids: torch.Tensor, attention_mask: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
        states_per_row = ids.size(0) // self.theta.size(0)
        theta = self.theta.repeat_interleave(states_per_row)[rows.nonzero()[:, 0]].unsqueeze(1)
        logits = DENOISER.logits(ids, attention_mask, rows)
        return (logits.nan_to_num(neginf=0.0) * theta).masked_fill(logits.isinf(), float("-inf"))


@every_coupling
def test_gradient_of_the_estimate_agrees_with_the_gradient_of_the_exact_bound(coupling):
    one, many = TemperedRows(1), TemperedRows(ROWS)
    exact_nelbo(conditional_logps(one, PROMPT, IDS), synced("linear")[1].schedule).backward()
    estimates("linear", many, num_draws=4, coupling=coupling).sequence_bound.sum().backward()
    assert one.theta.grad.abs() > 0.1
    assert_mean(many.theta.grad, one.theta.grad)


# ---- forward: levels and masks --------------------------------------------------------------------------------------


def forward_draws(name: str, coupling: str, num_draws: int = 8, rows: int = ROWS, length: int = 6, **loss) -> tuple:
    masking, nelbo = synced(name, num_draws=num_draws, coupling=coupling, source="forward", **loss)
    return nelbo, nelbo.draw(masking, rows, length, 2, rng())


@every_coupling
@every_schedule
def test_levels_are_drawn_by_width_and_masks_by_level(name, coupling):
    nelbo, draws = forward_draws(name, coupling)
    at = draws.timestep.unsqueeze(2) == torch.arange(10)  # (B, M, T + 2)
    assert_mean(at.double().mean(dim=1), nelbo.schedule.width(torch.arange(10)))
    excess = draws.hidden.double() - nelbo.schedule.mask_prob(draws.timestep).unsqueeze(2)
    assert_mean(torch.einsum("bml,bmt->bt", excess, at.double()), 0.0)
    assert torch.equal(draws.scored, draws.hidden)


@every_coupling
@every_schedule
def test_the_uniforms_that_travel_with_the_draws_are_those_that_hid_the_tokens(name, coupling):
    nelbo, draws = forward_draws(name, coupling, rows=50)
    level = nelbo.schedule.mask_prob(draws.timestep).unsqueeze(2)
    assert torch.equal(draws.hidden, draws.u < level)
    assert draws.shown is None and draws.rolled_out is None


@every_coupling
def test_levels_are_stratified(coupling):
    masking = DiffusionMaskingStrategy(0.0, 2, "linear", 0.25, 0.75)  # four transitions of width 1/4
    nelbo = TrajectoryNELBOLoss(2, "linear", 0.25, 0.75, num_draws=16, coupling=coupling)
    timestep = nelbo.draw(masking, 50, 3, 0, rng()).timestep
    for group in timestep.split(8, dim=1):  # two replicates
        copies = (group.unsqueeze(2) == torch.arange(4)).sum(dim=1)
        assert bool((copies == 2).all())


def test_nested_states_are_nested():
    _, draws = forward_draws("cosine", "nested")
    for hidden, timestep in zip(draws.hidden.split(4, dim=1), draws.timestep.split(4, dim=1), strict=True):
        order = timestep.argsort(dim=1)
        cleaner, noisier = (
            hidden.gather(1, order[:, part, None].expand(-1, -1, 6)) for part in (slice(3), slice(1, 4))
        )
        assert bool((noisier | ~cleaner).all())
        assert bool((noisier != cleaner).any())


def test_antithetic_pairs_are_mirror_images_at_the_same_level():
    nelbo, draws = forward_draws("cosine", "antithetic")
    first, second = draws.hidden[:, ::2], draws.hidden[:, 1::2]
    assert torch.equal(draws.timestep[:, ::2], draws.timestep[:, 1::2])
    often = nelbo.schedule.mask_prob(draws.timestep[:, ::2]) >= 0.5
    assert bool((first | second)[often].all()) and not bool((first & second)[~often].any())


def test_independent_draws_are_uncorrelated_and_nested_ones_are_not():
    for coupling in ("independent", "nested"):
        nelbo, draws = forward_draws("linear", coupling)
        excess = draws.hidden.double() - nelbo.schedule.mask_prob(draws.timestep).unsqueeze(2)
        product = (excess[:, 0] * excess[:, 1]).mean(dim=1)  # same token, two levels of one replicate
        if coupling == "independent":
            assert_mean(product, 0.0)
        else:
            assert product.mean() > 0.02


@every_coupling
def test_replicates_are_independent(coupling):
    nelbo, draws = forward_draws("linear", coupling)
    excess = draws.hidden.double() - nelbo.schedule.mask_prob(draws.timestep).unsqueeze(2)
    assert_mean((excess[:, :4].mean(dim=1) * excess[:, 4:].mean(dim=1)).mean(dim=1), 0.0)


@every_coupling
def test_plain_token_weights_share_the_canvas(coupling):
    nelbo, draws = forward_draws("cosine", coupling, num_draws=2, rows=50, ratio="plain")
    weight, seen = nelbo.token_weight(draws), draws.scored.any(dim=1)
    assert bool((seen.any(dim=1) & ~seen.all(dim=1)).any())
    assert torch.equal(weight > 0, seen)
    assert torch.allclose(weight.sum(dim=1), torch.where(seen.any(dim=1), 6.0, 0.0))


# ---- scoring --------------------------------------------------------------------------------------------------------


def test_constant_predictions_have_constant_logps_and_entropies():
    logits = torch.tensor([0.5, -1.0, 0.2])
    logps = logits.log_softmax(0)
    masking, nelbo = synced(num_draws=4, source="forward")
    draws = nelbo.draw(masking, 20, 4, 2, rng())
    estimate = nelbo.score(ConstantDenoiser(logits.tolist()), *prompts(20), IDS.expand(20, -1), draws)
    seen = draws.scored.any(dim=1)
    assert not bool(seen.all())
    assert torch.allclose(estimate.per_token_logps, torch.where(seen, logps[IDS], 0.0), atol=1e-6)
    assert torch.allclose(estimate.entropies, torch.where(seen, -(logps * logps.exp()).sum(), 0.0), atol=1e-6)


def test_scoring_draws_nothing_and_leaves_the_global_random_state():
    masking, nelbo = synced(num_draws=4, source="forward")
    before = torch.get_rng_state()
    draws = nelbo.draw(masking, 5, 4, 2, rng())
    one, two = (nelbo.score(DENOISER, *prompts(5), IDS.expand(5, -1), draws) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for field in fields(one):
        assert torch.equal(getattr(one, field.name), getattr(two, field.name))


def test_entropies_carry_no_gradient():
    denoiser = TemperedRows(10)
    estimate = estimates("cosine", denoiser, rows=10)
    assert estimate.per_token_logps.requires_grad and estimate.sequence_bound.requires_grad
    assert not estimate.entropies.requires_grad and not estimate.standard_error.requires_grad


def test_states_hide_what_the_draws_say_but_never_padding():
    masking, nelbo = synced(num_draws=4, source="forward")
    masking.p_mask_prompt = 0.5
    denoiser, ids = TableDenoiser(), IDS.expand(30, -1)
    prompt_ids, prompt_mask = torch.full((30, 5), 1), (torch.arange(5) >= torch.arange(30).unsqueeze(1) % 4).long()
    draws = nelbo.draw(masking, 30, 4, 5, rng())
    estimate = nelbo.score(denoiser, prompt_ids, prompt_mask, ids, draws)
    states = denoiser.last_states.view(30, 4, 9)
    padding = (prompt_mask == 0).unsqueeze(1)
    assert bool((draws.prompt_hidden & padding).any())
    assert torch.equal(states[..., :5] == MASK, draws.prompt_hidden & ~padding)
    assert torch.equal(states[..., 5:] == MASK, draws.hidden)
    assert torch.equal(states[..., 5:][~draws.hidden], ids.unsqueeze(1).expand(-1, 4, -1)[~draws.hidden])
    garbage = torch.where(prompt_mask == 0, 2, prompt_ids)
    again = nelbo.score(denoiser, garbage, prompt_mask, ids, draws)
    assert torch.equal(again.sequence_bound, estimate.sequence_bound)


def shown_instead(draws: Draws, ids: torch.Tensor) -> Draws:
    """The same draws with other tokens to be seen than ``ids``, (B, L)."""
    shown = ((ids + 1) % VOCABULARY).unsqueeze(1).expand_as(draws.hidden).clone()
    return replace(draws, shown=shown, rolled_out=torch.ones(len(ids), dtype=torch.bool))


def test_states_show_what_the_draws_say_and_targets_stay_the_text():
    masking, nelbo = synced(num_draws=4, source="forward")
    draws, ids, denoiser = nelbo.draw(masking, 30, 4, 2, rng()), IDS.expand(30, -1), TableDenoiser()
    other = shown_instead(draws, ids)
    found = nelbo.score(denoiser, *prompts(30), ids, other)
    canvas = denoiser.last_states.view(30, 4, 6)[..., 2:]
    assert torch.equal(canvas, torch.where(draws.hidden, MASK, other.shown))
    logits = denoiser.logits(denoiser.last_states, None, denoiser.last_states == MASK)
    logps = logits.log_softmax(dim=1)[torch.arange(len(logits)), IDS.expand(30, 4, -1)[draws.hidden]]
    weights = draws.weight.unsqueeze(2).expand_as(draws.hidden)[draws.hidden]
    row = draws.hidden.nonzero()[:, 0]
    assert torch.allclose(found.sequence_bound, torch.zeros(30).index_add(0, row, -logps * weights), rtol=1e-5)
    same = replace(draws, shown=ids.unsqueeze(1).expand_as(draws.hidden))
    for field in fields(found):
        plain, shown = (getattr(nelbo.score(denoiser, *prompts(30), ids, d), field.name) for d in (draws, same))
        assert torch.equal(plain, shown)


@pytest.mark.parametrize("source", SOURCES)
def test_an_estimate_from_logits_of_more_positions_is_the_score(source):
    masking, nelbo = synced(source=source, num_draws=2)
    out = rollout(rows=12)
    draws = nelbo.draw(masking, *out.ids.shape, 2, rng(), trajectory=out)
    where = draws.scored | (torch.rand(draws.scored.shape, generator=rng(1)) < 0.3)
    logits = predict_states(DENOISER, *prompts(12), out.ids, draws, where)
    assert len(logits) == int(where.sum()) > int(draws.scored.sum())
    found = nelbo.estimate(tempered_logps(logits[draws.scored[where]], 0.7), out.ids, draws)
    expected = nelbo.score(DENOISER, *prompts(12), out.ids, draws, 0.7)
    for field in fields(found):
        values, others = getattr(found, field.name), getattr(expected, field.name)
        assert torch.allclose(values, others, atol=1e-6, equal_nan=True), field.name


# ---- rollout: the recorded states -----------------------------------------------------------------------------------

ROLLOUTS = [
    {"sampler": name, "block_length": block, "eos_id": eos, "temperature": temperature, **choice}
    for name, kind in SAMPLERS.items()
    if kind.final
    for choice in [
        *({"selection": rule} for rule in (SELECTIONS if kind.selects else ())),
        *({"solver": solver} for solver in (SOLVERS if kind.solves else ()) if SOLVERS[solver].exact),
    ]
    for block, eos, temperature in ((6, None, 1.0), (2, None, 0.7), (6, 2, 1.0), (2, 2, 1.5))
]


@pytest.mark.parametrize("options", ROLLOUTS, ids=lambda options: "-".join(map(str, options.values())))
def test_replaying_every_step_gives_back_the_recorded_commits(options):
    out = rollout(**options)
    estimate = replay_of(out, "all", temperature=options["temperature"])
    assert torch.allclose(estimate.sequence_bound, -out.commit_logps.sum(dim=1), atol=1e-5)
    assert torch.allclose(estimate.per_token_logps, out.commit_logps, atol=1e-5)
    assert torch.equal(estimate.token_weight > 0, out.step_map < NEVER)
    assert bool((estimate.standard_error == 0).all())


@pytest.fixture(scope="module")
def gappy() -> Trajectory:
    """One row of a batch whose steps are its own: not every batch step revealed something in it."""
    batch = rollout(rows=20, sampler="ancestral")
    for row, steps in enumerate(batch.step_map.tolist()):
        if len(set(steps)) == 4 and max(steps) > 3:
            return repeated(batch, row)
    raise AssertionError("no such row")


@pytest.mark.parametrize("num_draws", [1, 2, 3])
def test_drawn_steps_estimate_the_whole_replay_without_bias(gappy, num_draws):
    estimate = replay_of(gappy, "drawn", num_draws)
    assert_mean(estimate.sequence_bound, -gappy.commit_logps[0].sum().item(), sigmas=3)
    assert_mean(estimate.token_bound, -gappy.commit_logps[0])
    assert_mean(estimate.token_weight, 1.0)


@pytest.mark.parametrize("num_draws", [2, 3])
def test_standard_error_of_drawn_steps_is_calibrated(gappy, num_draws):
    assert_calibrated(replay_of(gappy, "drawn", num_draws))


@pytest.mark.parametrize("num_draws", [1, 2, 3])
def test_every_subset_of_steps_is_equally_likely_and_their_mean_is_the_whole_replay(gappy, num_draws):
    masking, nelbo = synced(source="rollout", num_draws=num_draws, replay="drawn")
    draws = nelbo.draw(masking, ROWS, 6, 2, rng(), trajectory=gappy)
    combinations = list(itertools.combinations(range(4), num_draws))
    found, first, counts = [], [], []
    for steps in combinations:
        rows = (draws.timestep == torch.tensor(steps)).all(dim=1)
        found.append(steps), first.append(int(rows.int().argmax())), counts.append(int(rows.sum()))
    assert sum(counts) == ROWS
    if len(combinations) > 1:
        assert chi_square_excess(torch.tensor(counts), torch.full((len(found),), ROWS / len(found))) < 4
    bound = replay_of(gappy, "drawn", num_draws).sequence_bound[first]
    assert bound.mean().item() == pytest.approx(-gappy.commit_logps[0].sum().item(), abs=1e-4)


@pytest.mark.parametrize("num_draws", [4, 5, 50])
def test_with_as_many_draws_as_steps_nothing_is_left_to_chance(gappy, num_draws):
    out = gappy[:20]
    drawn, whole = replay_of(out, "drawn", num_draws), replay_of(out, "all")
    assert torch.allclose(drawn.sequence_bound, whole.sequence_bound, atol=1e-5)
    assert torch.equal(drawn.token_weight, torch.ones(20, 6))
    assert bool((drawn.standard_error == 0).all())


def test_one_drawn_step_of_several_has_no_error_bar(gappy):
    out = gappy[torch.arange(3)]  # a copy
    out.step_map[0] = 0  # one step: nothing is left to chance in this row
    assert replay_of(out, "drawn", 1).standard_error.isnan().tolist() == [False, True, True]


@pytest.mark.parametrize("num_draws", [1, 2, 3, 4, 6, 9])
def test_segments_score_every_token_once_in_the_state_before_its_segment(num_draws):
    out = rollout(sampler="ancestral")
    masking, nelbo = synced(source="rollout", replay="segments", num_draws=num_draws)
    draws = nelbo.draw(masking, *out.ids.shape, 2, rng(), trajectory=out)
    assert bool((draws.scored.sum(dim=1) == 1).all())
    assert torch.equal(nelbo.token_weight(draws), torch.ones(out.ids.shape))
    for row, m in itertools.product(range(len(out)), range(num_draws)):
        scored = draws.scored[row, m]
        if bool(scored.any()):
            steps = out.step_map[row]
            assert torch.equal(draws.hidden[row, m], steps >= steps[scored].min())
    sizes = draws.scored.any(dim=2).sum(dim=1)
    dense = torch.tensor([len(set(steps)) for steps in out.step_map.tolist()])
    assert torch.equal(sizes, dense.clamp(max=num_draws))


def test_as_many_segments_as_steps_are_all_steps():
    out = rollout()
    steps = len(set(out.step_map[0].tolist()))
    masking, nelbo = synced(source="rollout", replay="segments", num_draws=steps)
    segments = nelbo.draw(masking, *out.ids.shape, 2, rng(), trajectory=out)
    nelbo.replay = "all"
    whole = nelbo.draw(masking, *out.ids.shape, 2, rng(), trajectory=out)
    assert steps > 2 and torch.equal(segments.hidden, whole.hidden) and torch.equal(segments.scored, whole.scored)


def test_one_segment_predicts_everything_from_the_prompt(table):
    out = rollout(rows=3, length=4)
    expected = [-conditional_logps(DENOISER, PROMPT, ids)[-1].sum().item() for ids in out.ids]
    assert replay_of(out, "segments", 1).sequence_bound.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("source", SOURCES)
def test_a_replay_scores_the_canvas_and_forward_states_the_text(source):
    out = rollout(rows=40, eos_id=2)
    canvas = synced(source=source)[1].canvas(out)
    assert not torch.equal(out.ids, out.completion_ids)
    assert torch.equal(canvas, out.ids if source == "rollout" else out.completion_ids)


# ---- draws travel ---------------------------------------------------------------------------------------------------


def assert_same(one: Draws, other: Draws) -> None:
    for field in fields(Draws):
        value, expected = getattr(one, field.name), getattr(other, field.name)
        assert (value is None) == (expected is None), field.name
        assert value is None or torch.equal(value, expected), field.name


def any_draws(source: str, coupling: str = "nested", replay: str = "drawn", seed: int = 0, **options) -> Draws:
    """Draws for 6 rows, or for the rows of one process."""
    masking, nelbo = synced(source=source, coupling=coupling, replay=replay, num_draws=4)
    masking.p_mask_prompt = 0.5
    out = rollout(rows=6)
    share = options.get("share", WHOLE)
    rows = 6 // share.processes
    return nelbo.draw(masking, rows, 6, 3, rng(seed), trajectory=out[share.own(rows)], **options)


KINDS = [("forward", coupling, "drawn") for coupling in COUPLINGS] + [("rollout", "nested", r) for r in REPLAYS]


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_processes_get_the_rows_of_the_global_draw(kind, processes):
    whole, rows = any_draws(*kind), 6 // processes
    for rank in range(processes):
        part = any_draws(*kind, share=Share(rank, processes))
        assert_same(part, whole.rows(slice(rank * rows, (rank + 1) * rows)))
    assert len(whole.prompt_hidden.unique(dim=0)) == 6  # no process repeats another


@pytest.mark.parametrize("rolled_out", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_draws_survive_a_batch_dictionary_and_an_iteration_axis(kind, rolled_out):
    draws = [any_draws(*kind, seed=seed) for seed in range(3)]
    if rolled_out:
        draws = [shown_instead(one, torch.full((6, 6), i)) for i, one in enumerate(draws)]
    stacked = Draws.stack(draws)
    batch = stacked.to_dict("nelbo_")
    assert all(key.startswith("nelbo_") and value.size(0) == 6 for key, value in batch.items())
    assert ("nelbo_shown" in batch) == ("nelbo_rolled_out" in batch) == rolled_out
    half = Draws.from_dict({key: value[3:] for key, value in batch.items()} | {"ids": None}, "nelbo_")
    for i, one in enumerate(draws):
        assert_same(stacked.iteration(i), one)
        assert_same(half.iteration(i), replace(one.rows(slice(3, 6)), u=None))  # u stays where it was drawn
    assert not torch.equal(draws[0].prompt_hidden, draws[1].prompt_hidden)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_named_by_a_slice_an_index_or_a_mask(kind):
    draws = shown_instead(any_draws(*kind), torch.arange(36).view(6, 6))
    mask = torch.tensor([False, False, True, True, True, False])
    for rows in (torch.tensor([2, 3, 4]), mask):
        assert_same(draws.rows(rows), draws.rows(slice(2, 5)))
    assert torch.equal(draws.rows(mask).shown, draws.shown[2:5])


def test_only_forward_draws_have_uniforms():
    assert [any_draws(*kind).u is not None for kind in KINDS] == [kind[0] == "forward" for kind in KINDS]


@pytest.mark.parametrize("kind", KINDS)
def test_draws_repeat_with_the_generator(kind):
    before = torch.get_rng_state()
    assert_same(any_draws(*kind, seed=5), any_draws(*kind, seed=5))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "both"}, "both.*" + ", ".join(SOURCES)),
        ({"coupling": "tight"}, "tight.*" + ", ".join(COUPLINGS)),
        ({"replay": "some"}, "some.*" + ", ".join(REPLAYS)),
        ({"num_draws": 0}, "num_draws=0"),
        ({"num_draws": 3, "coupling": "antithetic"}, "num_draws=3"),
        ({"alpha_schedule": "tan"}, "tan"),
    ],
)
def test_impossible_losses_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        TrajectoryNELBOLoss(**arguments)


@every_replay
def test_a_replay_needs_a_rollout(replay):
    masking, nelbo = synced(source="rollout", replay=replay)
    with pytest.raises(ValueError, match="recorded rollout"):
        nelbo.draw(masking, 2, 4, 2, rng())


@every_schedule
def test_drawn_by_width_the_weight_is_one_over_the_mask_probability(name):
    nelbo, draws = forward_draws(name, "independent", rows=50)
    product = draws.weight * nelbo.schedule.mask_prob(draws.timestep) * 8
    assert torch.allclose(product, torch.ones_like(product), rtol=1e-6)
