"""Each estimator against a case that is known: the exact likelihood, the any-order bound, the recorded rollout."""

import itertools
import math

import numpy as np
import pytest
import torch
from estimating import LENGTH, SELECTIONS, STEPS, build, draw, rollouts
from torch import Tensor
from toys import (
    MASK,
    PROMPT,
    VOCABULARY,
    TableDenoiser,
    all_sequences,
    assert_mean,
    chi_square_excess,
    prompts,
    rng,
    sampler,
)

from core.alpha_schedule import SCHEDULES, AlphaSchedule
from core.denoisers.denoiser import tempered_logps
from core.likelihoods.estimators import (
    ESTIMATORS,
    GaussQuadrature,
    MergedReplay,
    SelectionReplay,
    gauss_legendre,
    upper_bound,
)
from core.masking_strategy import DiffusionMaskingStrategy
from core.oracles.exact import any_order_average, conditional_logps, exact_log_likelihood, exact_nelbo, subsets
from core.scoring.likelihood import Draws, predict_states
from core.scoring.share import Share
from core.trajectory import NEVER, Trajectory

BOUNDS = ("monte_carlo", "complementary", "quadrature")  # of the any-order bound, at these lengths and draws


def text(ids: Tensor) -> Trajectory:
    """A text without a history: enough for estimators of fresh masks."""
    rows = torch.zeros(len(ids), dtype=torch.int64)
    return Trajectory(
        ids, torch.zeros_like(ids), torch.zeros(ids.shape), rows + ids.size(1), rows > 0, rows, True, None
    )


def enumerated(table: Tensor, hidden: Tensor, weight: Tensor) -> tuple[Tensor, Draws]:
    """The log-probs of a table (S, L) at given states, and states with these weights as the draws of one row."""
    index = (hidden * 2 ** torch.arange(hidden.size(1))).sum(dim=1)
    none = torch.zeros(1, len(hidden), 2, dtype=torch.bool)
    return table[index].float()[None], Draws(hidden[None], hidden[None], none, weight[None].float(), torch.ones(1))


def chain_draws(table: Tensor, schedule: AlphaSchedule) -> tuple[Tensor, Draws]:
    """All states of all transitions, weighted so that a sum over them is the expectation over forward draws."""
    t = torch.tensor(schedule.timesteps[1:])
    masked, mask_prob = subsets(table.size(1)), schedule.mask_prob(t).unsqueeze(1)
    size = masked.sum(dim=1)
    probability = mask_prob**size * (1 - mask_prob) ** (table.size(1) - size)
    weight = schedule.nelbo_weight(t).unsqueeze(1) * probability
    return enumerated(table, masked.expand(len(t), -1, -1).flatten(0, 1), weight.flatten())


# ---- what holds for every one --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATORS)
def test_order_and_cut_of_a_batch_do_not_matter(name):
    likelihood, masking = build(name)
    denoiser, trajectory = rollouts(6, SELECTIONS.get(name, "top1"))
    draws, ids = draw(likelihood, masking, trajectory), likelihood.canvas(trajectory)
    whole = likelihood.score(denoiser, *prompts(6), ids, draws)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    for rows in (order, order[:2], slice(3, 6)):
        count = len(ids[rows])
        part = likelihood.score(denoiser, *prompts(count), ids[rows], draws.rows(rows))
        for field, value in vars(whole).items():
            if value is not None:
                assert torch.allclose(getattr(part, field), value[rows], atol=1e-5, equal_nan=True), field
    assert whole.sequence_bound.unique().numel() > 1, "rows differ, or this shows nothing"


@pytest.mark.parametrize("name", ESTIMATORS)
def test_draws_depend_on_their_generator_alone_and_a_share_is_that_of_the_whole(name):
    likelihood, masking = build(name)
    _, trajectory = rollouts(6, SELECTIONS.get(name, "top1"))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again, other = (draw(likelihood, masking, trajectory, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    parts = enumerate((slice(3), slice(3, 6)))
    halves = [draw(likelihood, masking, trajectory[rows], 1, share=Share(i, 2)) for i, rows in parts]
    joined = Draws.cat(halves)
    for field, value in first.to_dict("").items():
        assert torch.equal(value, again.to_dict("")[field]), field
        assert torch.equal(value, joined.to_dict("")[field]), field
    if name not in ("one_step", "rollout"):  # nothing in these is left to chance
        assert not torch.equal(first.hidden, other.hidden)


@pytest.mark.parametrize("ratio", ["normalised", "weighted", "none"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_loss_before_an_update_has_the_gradient_of_the_sequence_value(name, ratio):
    if ratio not in ESTIMATORS[name].ratios:
        with pytest.raises(ValueError, match=f"loss.ratio='{ratio}': expected one of none, weighted"):
            build(name, ratio=ratio)
        return
    likelihood, masking = build(name, ratio=ratio)
    denoiser, trajectory = rollouts(5, SELECTIONS.get(name, "top1"))
    draws, ids = draw(likelihood, masking, trajectory), likelihood.canvas(trajectory)
    logits = predict_states(denoiser, *prompts(5), ids, draws, likelihood.predicted(draws))[:, :VOCABULARY]
    logits.requires_grad_(True)
    found = likelihood.estimate(torch.log_softmax(logits, dim=1), ids, draws)
    advantage = torch.tensor([1.0, 0.5, 2.0, 0.1, 0.7])
    value = (advantage @ (found.token_weight * found.per_token_logps)).sum()
    (loss,) = torch.autograd.grad(value, logits, retain_graph=True)
    (bound,) = torch.autograd.grad(-(advantage @ found.sequence_bound), logits)
    assert bound.norm() > 0.1 and torch.allclose(loss, bound, atol=1e-5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_normalised_log_prob_is_bounded_by_those_of_its_draws(name):
    if "normalised" not in ESTIMATORS[name].ratios:
        return
    fresh = {"source": "forward"} if name == "trajectory_nelbo" else {}
    likelihood, masking = build(name, ratio="normalised", **fresh)
    denoiser, trajectory = rollouts(50, SELECTIONS.get(name, "top1"))
    draws, ids = draw(likelihood, masking, trajectory), likelihood.canvas(trajectory)
    alone = ESTIMATORS["monte_carlo"](STEPS) if name == "complementary" else likelihood  # one draw is no pair
    found = likelihood.score(denoiser, *prompts(50), ids, draws)
    single = torch.stack(
        [
            alone.score(denoiser, *prompts(50), ids, only(draws, m)).per_token_logps
            for m in range(draws.hidden.size(1))
        ],
        dim=1,
    )
    seen = draws.scored
    lowest = single.masked_fill(~seen, math.inf).amin(dim=1)
    highest = single.masked_fill(~seen, -math.inf).amax(dim=1)
    inside = (found.per_token_logps >= lowest - 1e-5) & (found.per_token_logps <= highest + 1e-5)
    assert bool((inside | ~seen.any(dim=1)).all()) and bool(seen.any())
    assert bool((found.per_token_logps[~seen.any(dim=1)] == 0).all())


def only(draws: Draws, m: int) -> Draws:
    """One of the M draws, with weight as it was."""
    tensors = {name: value for name, value in vars(draws).items() if value is not None and value.ndim > 1}
    per_draw = {name: value[:, m : m + 1] for name, value in tensors.items()}
    return Draws(**per_draw, variance_factor=draws.variance_factor)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("coupled", {"num_draws": 4}, "loss.num_draws=4: expected odd and at least 3"),
        ("complementary", {"num_draws": 3}, "loss.num_draws=3: expected an even number"),
        ("monte_carlo", {"num_draws": 0}, "loss.num_draws=0: expected at least 1"),
        ("one_step", {"ratio": "bounded"}, "loss.ratio='bounded': expected one of normalised"),
        ("spg", {"power": 0.5}, "loss.eubo_power=0.5: expected at least 1"),
        ("spg", {"upper_share": 1.5}, "loss.eubo_share=1.5: expected a share"),
        ("rollout", {"shrinkage": 0}, "loss.shrinkage=0: expected at least 1"),
        ("rollout", {"shrinkage": 2, "num_draws": 2}, "loss.shrinkage=2: expected .* loss.num_draws=2 unset"),
        ("selection_replay", {"replay": "segments"}, "loss.replay='segments'"),
        ("selection_replay", {"temperature": 0.0}, "generation.temperature=0.0: expected above 0"),
    ],
)
def test_impossible_values_are_refused_by_name(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)


# ---- replays -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"num_draws": 8}, {"shrinkage": 1}], ids=str)
@pytest.mark.parametrize("sampling", [{}, {"selection": "random"}, {"temperature": 0.7}, {"block_length": 2}], ids=str)
def test_unmerged_replay_is_the_product_of_the_recorded_commits(options, sampling):
    likelihood, masking = build("rollout", **options)
    steps = {"steps": 4} if "block_length" in sampling else {"steps": STEPS}
    denoiser = TableDenoiser()
    trajectory = sampler(denoiser, LENGTH, **(steps | sampling)).generate(*prompts(40), rng())
    draws = draw(likelihood, masking, trajectory)
    found = likelihood.score(denoiser, *prompts(40), trajectory.ids, draws, sampling.get("temperature", 1.0))
    assert trajectory.exact and trajectory.commit_logps.sum() < -10
    assert torch.allclose(found.per_token_logps, trajectory.commit_logps, atol=1e-5)
    assert torch.allclose(found.sequence_bound, -trajectory.commit_logps.sum(dim=1), atol=1e-4)


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


def test_segments_merge_neighbouring_steps():
    # six tokens, each revealed in a step of its own: positions 0, 1, ... 5
    ids = torch.zeros(1, 6, dtype=torch.int64)
    trajectory = Trajectory(
        ids, torch.arange(6)[None], torch.zeros(1, 6), torch.tensor([6]), torch.tensor([False]), ids[:, 0], True, None
    )
    masking = DiffusionMaskingStrategy(0.0, 6)
    merged = {
        "3 segments": MergedReplay(6, num_draws=3),
        "of 2 steps": MergedReplay(6, shrinkage=2),
        "of 4 steps": MergedReplay(6, shrinkage=4),
    }
    states = {key: draw(likelihood, masking, trajectory) for key, likelihood in merged.items()}
    pairs = [
        [True, True, False, False, False, False],
        [False, False, True, True, False, False],
        [False] * 4 + [True] * 2,
    ]
    for key in ("3 segments", "of 2 steps"):
        assert states[key].scored[0].tolist() == pairs
        assert states[key].hidden[0].tolist() == [[i >= 2 * k for i in range(6)] for k in range(3)]
    assert states["of 4 steps"].scored[0].sum(dim=1).tolist() == [4, 2]
    assert all(bool((found.weight == 1).all()) for found in states.values())


# ---- low_confidence ------------------------------------------------------------------------------------------------


def all_paths(sizes: tuple[int, ...]) -> Trajectory:
    """Every completion with every way to reveal so many tokens a step."""
    length = sum(sizes)
    maps = sorted(set(itertools.permutations([step for step, size in enumerate(sizes) for _ in range(size)])))
    texts = all_sequences(length)
    ids = texts.repeat_interleave(len(maps), dim=0)
    step_map = torch.tensor(maps).repeat(len(texts), 1)
    rows = torch.zeros(len(ids), dtype=torch.int64)
    return Trajectory(ids, step_map, torch.zeros(ids.shape), rows + length, rows > 0, rows, False, None)


def path_number(trajectory: Trajectory) -> Tensor:
    digits = torch.cat([trajectory.ids, trajectory.step_map], dim=1)
    return (digits * 7 ** torch.arange(digits.size(1))).sum(dim=1)


def reveals(trajectory: Trajectory) -> tuple[int, ...]:
    """Tokens revealed in each step; the same in all rows."""
    counts = torch.stack(
        [(trajectory.step_map == step).sum(dim=1) for step in range(int(trajectory.step_map.max()) + 1)]
    )
    assert bool((counts == counts[:, :1]).all())
    return tuple(counts[:, 0].tolist())


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_selection_replay_is_the_law_of_low_confidence_and_plain_replay_is_not(temperature):
    denoiser = TableDenoiser()
    generator = sampler(denoiser, LENGTH, steps=STEPS, selection="low_confidence", temperature=temperature)
    drawn = generator.generate(*prompts(20_000), rng(3))
    paths = all_paths(reveals(drawn))
    assert len(set(path_number(paths).tolist())) == len(paths) > 81

    def law(name: str, **options) -> Tensor:
        likelihood, masking = build(name, replay="all", **options)
        draws = draw(likelihood, masking, paths)
        return (-likelihood.score(denoiser, *prompts(len(paths)), paths.ids, draws, temperature).sequence_bound).exp()

    corrected, plain = law("selection_replay", temperature=temperature), law("trajectory_nelbo")
    assert corrected.sum().item() == pytest.approx(1.0, abs=2e-5)
    assert plain.sum().item() > 2.5, "the choice of positions is missing"
    position = {number: i for i, number in enumerate(path_number(paths).tolist())}
    counts = torch.bincount(torch.tensor([position[n] for n in path_number(drawn).tolist()]), minlength=len(paths))
    assert chi_square_excess(counts, corrected * len(drawn)) < 4
    assert chi_square_excess(counts, plain / plain.sum() * len(drawn)) > 50


def test_selection_replay_looks_at_the_block_only():
    denoiser = TableDenoiser()
    generator = sampler(denoiser, LENGTH, steps=4, selection="low_confidence", block_length=2)
    drawn = generator.generate(*prompts(4000), rng(5))
    first = drawn.step_map[:, :2].amax(dim=1) < drawn.step_map[:, 2:].amin(dim=1)
    assert bool(first.all()) and drawn.step_map.unique().numel() == 4
    paths = all_paths((1, 1, 1, 1))
    paths = paths[(paths.step_map[:, :2] < 2).all(dim=1)]

    def total(block_length: int | None) -> float:
        likelihood, masking = build("selection_replay", replay="all", block_length=block_length)
        draws = draw(likelihood, masking, paths)
        found = likelihood.score(denoiser, *prompts(len(paths)), paths.ids, draws)
        return (-found.sequence_bound).exp().sum().item()

    assert total(2) == pytest.approx(1.0, abs=2e-5)
    assert total(None) < 0.9


def test_drawn_steps_of_selection_replay_average_to_all_of_them():
    denoiser, trajectory = rollouts(4, "low_confidence")
    ids = trajectory.ids
    whole, masking = build("selection_replay", replay="all")
    exact = whole.score(denoiser, *prompts(4), ids, draw(whole, masking, trajectory)).sequence_bound
    one, _ = build("selection_replay", num_draws=1)
    samples = torch.stack(
        [
            one.score(denoiser, *prompts(4), ids, draw(one, masking, trajectory, seed)).sequence_bound
            for seed in range(300)
        ]
    )
    assert samples.std(dim=0).max() > 0.1
    assert_mean(samples, exact)


def test_an_impossible_choice_has_a_floor_and_no_gradient():
    likelihood = SelectionReplay(2, replay="all")
    ids = torch.zeros(1, 2, dtype=torch.int64)
    trajectory = Trajectory(
        ids,
        torch.tensor([[0, 1]]),
        torch.zeros(1, 2),
        torch.tensor([2]),
        torch.tensor([False]),
        ids[:, 0],
        False,
        None,
    )
    draws = draw(likelihood, DiffusionMaskingStrategy(0.0, 2), trajectory)
    # states in order: both hidden, the second one hidden. The first token was chosen though every token of the second
    # position is likelier than it.
    logits = torch.tensor([[-9.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    found = likelihood.estimate(torch.log_softmax(logits, dim=1), ids, draws)
    assert found.per_token_logps[0, 0].item() == pytest.approx(
        torch.log_softmax(logits[0], 0)[0].item() + math.log(SelectionReplay.FLOOR), rel=1e-4
    )
    found.per_token_logps[0, 0].backward()
    assert torch.isfinite(logits.grad).all() and bool((logits.grad[1] == 0).all())


# ---- fresh masks ---------------------------------------------------------------------------------------------------


def sampled_bounds(name: str, ids: Tensor, rows: int = 20_000, **options) -> Tensor:
    likelihood, masking = build(name, **options)
    trajectory = text(ids.expand(rows, -1))
    draws = draw(likelihood, masking, trajectory, 7)
    return likelihood.score(TableDenoiser(), *prompts(rows), trajectory.ids, draws).sequence_bound


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("monte_carlo", {"num_draws": 1}),
        ("monte_carlo", {"num_draws": 3}),
        ("complementary", {"num_draws": 2}),
        ("quadrature", {"num_draws": 2}),  # exact from L / 2 = 2 nodes on
        ("quadrature", {"num_draws": 3}),
    ],
    ids=str,
)
def test_expectation_is_the_any_order_bound(name, options):
    ids = torch.tensor([2, 0, 1, 1])
    table = conditional_logps(TableDenoiser(), PROMPT, ids)
    bounds = sampled_bounds(name, ids, **options)
    assert_mean(bounds, any_order_average(table).item())
    assert bounds.std() / bounds.mean() < 2, "sharp enough to see a wrong weight"


def test_quadrature_of_too_few_nodes_is_biased_and_by_how_much_is_known():
    ids = torch.tensor([2, 0, 1, 1])
    table = conditional_logps(TableDenoiser(), PROMPT, ids)
    size = subsets(LENGTH).sum(dim=1)

    def rule(nodes: int) -> float:
        level, weight = gauss_legendre(nodes)
        chance = level.unsqueeze(1) ** size * (1 - level.unsqueeze(1)) ** (LENGTH - size)
        return -((weight / level) @ chance @ table.sum(dim=1)).item()

    exact = any_order_average(table).item()
    assert rule(2) == pytest.approx(exact, rel=1e-12) and rule(3) == pytest.approx(exact, rel=1e-12)
    assert abs(rule(1) - exact) > 0.01
    assert_mean(sampled_bounds("quadrature", ids, num_draws=1), rule(1))


@pytest.mark.parametrize("nodes", [1, 2, 3, 8])
def test_gauss_nodes_are_numpys(nodes):
    values, weights = np.polynomial.legendre.leggauss(nodes)
    found = gauss_legendre(nodes)
    assert np.allclose(found[0].numpy(), (values + 1) / 2) and np.allclose(found[1].numpy(), weights / 2)


def test_monte_carlo_hides_every_number_of_tokens_equally_often_and_pairs_cover_all():
    _, trajectory = rollouts(5000)
    for name in ("monte_carlo", "complementary"):
        likelihood, masking = build(name, num_draws=2)
        hidden = draw(likelihood, masking, trajectory).hidden
        counts = torch.bincount(hidden.sum(dim=2).flatten(), minlength=LENGTH + 1)
        assert counts[0] == 0 and (counts[1:] / 10_000 - 0.25).abs().max() < 0.02
        assert (hidden.float().mean(dim=(0, 1)) - 0.625).abs().max() < 0.02
        assert bool(hidden.any(dim=1).all()) == (name == "complementary")


def test_expectation_of_coupled_masks_is_what_its_docstring_says():
    ids = torch.tensor([2, 0, 1, 1])
    table = conditional_logps(TableDenoiser(), PROMPT, ids)
    masked = subsets(LENGTH)
    level, weight = gauss_legendre(6)  # E over r ~ U(.2, .8) of E(l_k | k hidden at rate r), a polynomial in r
    rate = (0.2 + 0.6 * level).unsqueeze(1)
    others = masked.sum(dim=1) - 1
    chance = torch.where(others >= 0, rate**others * (1 - rate) ** (LENGTH - 1 - others), 0.0)
    conditional = (weight @ chance @ table).sum()
    for pairs in (1, 2):
        bounds = sampled_bounds("coupled", ids, num_draws=1 + 2 * pairs)
        expected = -(table[-1].sum() + 2 * pairs * conditional) / (pairs + 1)
        assert_mean(bounds, expected.item())
    likelihood, masking = build("coupled")
    scored = draw(likelihood, masking, rollouts(20)[1]).scored
    assert bool((scored.sum(dim=1) == 2).all()), "each token in the full mask and in one of the pair"


# ---- the sandwich --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_upper_bound_exact_and_lower_bound_are_in_order_for_powers_from_the_canvas_length(name):
    schedule, denoiser = AlphaSchedule(name, STEPS), TableDenoiser()
    for ids in all_sequences(3):
        table = conditional_logps(denoiser, PROMPT, ids)
        logps, draws = chain_draws(table, schedule)
        exact = exact_log_likelihood(table, schedule).item()
        assert upper_bound(logps, draws, 3.0).sum().item() >= exact - 1e-6
        assert exact >= -exact_nelbo(table, schedule).item() - 1e-6
        for power in (1.0, 1.5, 3.0):
            assert upper_bound(logps, draws, power).sum().item() >= -exact_nelbo(table, schedule).item() - 1e-6


def test_at_spgs_power_the_upper_bound_is_none():
    # the published b = 1.5: below the exact log-likelihood for many sequences of a toy
    schedule, denoiser = AlphaSchedule("linear", 4), TableDenoiser(seed=0)
    gaps = []
    for ids in all_sequences(3):
        table = conditional_logps(denoiser, PROMPT, ids)
        gaps.append(
            upper_bound(*chain_draws(table, schedule), 1.5).sum().item() - exact_log_likelihood(table, schedule).item()
        )
    below = torch.tensor(gaps) < 0
    assert min(gaps) < -0.2 and 3 <= int(below.sum()) < len(gaps)


def test_upper_bound_of_drawn_masks_rises_to_its_limit():
    ids = torch.tensor([2, 0, 1, 1])
    likelihood, masking = build("spg")
    table = conditional_logps(TableDenoiser(), PROMPT, ids)
    limit = upper_bound(*chain_draws(table, likelihood.schedule), 1.5).sum().item()
    means = []
    for num_draws in (8, 64, 512):
        many, _ = build("spg", num_draws=num_draws)
        trajectory = text(ids.expand(60, -1))
        draws = draw(many, masking, trajectory, 7)
        logits = predict_states(TableDenoiser(), *prompts(60), trajectory.ids, draws, draws.scored)
        targets = trajectory.ids.unsqueeze(1).expand_as(draws.scored)[draws.scored]
        picked = tempered_logps(logits, 1.0).gather(1, targets.unsqueeze(1))
        logps = torch.zeros(draws.scored.shape).masked_scatter(draws.scored, picked.squeeze(1))
        means.append(upper_bound(logps, draws, 1.5).sum(dim=1).mean().item())
    assert means[0] < means[1] < means[2] < limit + 0.02 and limit - means[2] < 0.05


def test_sandwich_takes_the_mixture_for_negative_advantages_and_leaves_unseen_tokens_out():
    likelihood, masking = build("spg", power=2.0, upper_share=0.25)
    denoiser, trajectory = rollouts(200)
    draws = draw(likelihood, masking, trajectory)
    found = likelihood.score(denoiser, *prompts(200), trajectory.ids, draws)
    row, k = next((b, i) for b, i in itertools.product(range(200), range(LENGTH)) if draws.scored[b, :, i].all())
    states = torch.where(draws.hidden[row], MASK, trajectory.ids[row])
    full = torch.cat([PROMPT.expand(2, -1), states], dim=1)
    where = torch.zeros(full.shape, dtype=torch.bool)
    where[:, 2 + k] = True
    probs = denoiser.logits(full, None, where).softmax(dim=1)[:, trajectory.ids[row, k]]
    lower = (draws.weight[row] * probs.log()).sum().item()
    upper = 0.5 * (draws.weight[row] * probs**2).sum().log().item()
    assert found.per_token_logps[row, k].item() == pytest.approx(lower, abs=1e-5)
    assert found.negative_logps[row, k].item() == pytest.approx(0.25 * upper + 0.75 * lower, abs=1e-5)
    unseen = ~draws.scored.any(dim=1)
    assert bool(unseen.any()) and bool((found.negative_logps[unseen] == 0).all())


def test_gradient_of_the_upper_bound_is_finite_where_tokens_are_unseen():
    hidden = torch.tensor([[[True, False]]])
    draws = Draws(hidden, hidden, torch.zeros(1, 1, 0, dtype=torch.bool), torch.ones(1, 1), torch.ones(1))
    logps = torch.tensor([[[-0.5, 0.0]]], requires_grad=True)
    upper_bound(logps, draws, 1.5).sum().backward()
    assert logps.grad.tolist() == [[[1.0, 0.0]]]


def test_states_a_sequence_are_those_that_are_asked_for():
    _, trajectory = rollouts(3)
    steps = int(trajectory.step_map[trajectory.step_map < NEVER].max()) + 1
    published = {"one_step": 1, "coupled": 3, "monte_carlo": 2, "complementary": 2, "spg": 2, "quadrature": 3}
    published |= {"rollout": 8, "trajectory_nelbo": 2, "selection_replay": 2}
    for name in ESTIMATORS:
        likelihood, masking = build(name)
        assert draw(likelihood, masking, trajectory).hidden.size(1) == published[name]
    assert draw(*build("rollout", shrinkage=2), trajectory).hidden.size(1) == math.ceil(steps / 2)
    assert GaussQuadrature(STEPS, num_draws=5).num_draws == 5
