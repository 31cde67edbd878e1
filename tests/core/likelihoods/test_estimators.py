"""What holds for every estimator: batches, draws, ratios, refusals and the number of states."""

import math

import pytest
import torch
from estimating import SELECTIONS, STEPS, build, draw, rollouts
from toys import VOCABULARY, prompts

from core.likelihoods import ESTIMATORS, GaussQuadrature
from core.scoring import Draws, Share, predict_states
from core.trajectory import NEVER


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
