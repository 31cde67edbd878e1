"""The Monte-Carlo bound against the oracle, its own error bar, and what it refuses."""

import itertools

import pytest
import torch
from bounds import (
    DENOISER,
    IDS,
    ROWS,
    TemperedRows,
    assert_calibrated,
    estimates,
    every_coupling,
    every_replay,
    every_schedule,
    table,
)
from toys import PROMPT, assert_mean, prompts, rng, synced

from core.alpha_schedule import SCHEDULES
from core.masking_strategy import DiffusionMaskingStrategy
from core.nelbo import SOURCES, TrajectoryNELBOLoss
from core.oracles.exact import conditional_logps, exact_nelbo
from core.scoring import COUPLINGS, REPLAYS


@pytest.mark.parametrize("num_draws", [2, 4, 6])
@every_coupling
@every_schedule
def test_estimate_agrees_with_the_exact_bound(name, coupling, num_draws):
    _, nelbo = synced(name)
    bound = estimates(name, num_draws=num_draws, coupling=coupling).sequence_bound
    assert_mean(bound, exact_nelbo(table(), nelbo.schedule).item(), sigmas=3)


@every_coupling
@every_schedule
def test_each_token_gets_its_own_share_of_the_exact_bound(name, coupling):
    _, nelbo = synced(name)
    estimate = estimates(name, num_draws=4, coupling=coupling)
    shares = torch.stack([exact_nelbo(table() * (torch.arange(4) == i), nelbo.schedule) for i in range(4)])
    assert_mean(estimate.token_bound, shares)
    assert torch.allclose(estimate.token_bound.sum(dim=1), estimate.sequence_bound, rtol=1e-4)


@every_coupling
@pytest.mark.parametrize(("masks", "weights"), itertools.permutations(SCHEDULES, 2))
def test_masks_from_one_schedule_and_weights_from_another_bound_nothing(masks, weights, coupling):
    masking, nelbo = DiffusionMaskingStrategy(0.0, 8, masks), TrajectoryNELBOLoss(8, weights, num_draws=4)
    estimate = nelbo(DENOISER, masking, *prompts(ROWS), IDS.expand(ROWS, -1), rng())
    error = estimate.sequence_bound.std().item() / ROWS**0.5
    for schedule in (masking.schedule, nelbo.schedule):
        assert abs(estimate.sequence_bound.mean().item() - exact_nelbo(table(), schedule).item()) > 5 * error


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


@every_coupling
def test_gradient_of_the_estimate_agrees_with_the_gradient_of_the_exact_bound(coupling):
    one, many = TemperedRows(1), TemperedRows(ROWS)
    exact_nelbo(conditional_logps(one, PROMPT, IDS), synced("linear")[1].schedule).backward()
    estimates("linear", many, num_draws=4, coupling=coupling).sequence_bound.sum().backward()
    assert one.theta.grad.abs() > 0.1
    assert_mean(many.theta.grad, one.theta.grad)


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
