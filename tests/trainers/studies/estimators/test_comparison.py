"""Exact estimators pass, wrong ones are found out, and the floor is a floor."""

import math

import pytest
import torch
from comparing import STEPS, Bench

from core.likelihoods import ESTIMATORS
from core.masking_strategy import DiffusionMaskingStrategy
from core.nelbo import TrajectoryNELBOLoss
from trainers.studies.estimators.comparison import surrogate
from trainers.studies.estimators.enumerable import MASK, AnswerDenoiser, build_model
from trainers.studies.estimators.gradients import reinforce_row


class Shrunk(TrajectoryNELBOLoss):
    """Exact replay that counts every token 0.8 times: wrong on purpose."""

    def draw_states(self, *args):
        drawn = super().draw_states(*args)
        return {**drawn, "weight": 0.8 * drawn["weight"]}


def assert_unbiased_along(samples: torch.Tensor, exact: torch.Tensor) -> None:
    """The mean projection on the exact gradient is its norm, within 4 standard errors."""
    along = samples.double() @ exact.double() / exact.norm().double()
    assert abs(along.mean() - exact.norm()) < 4 * along.std() / len(along) ** 0.5


def test_the_floor_is_unbiased(bench):
    row = reinforce_row(bench.batches, bench.target)
    assert not row.biased and row.gradient_std > 0.1
    assert_unbiased_along(bench.reinforce, bench.target.gradient)


def test_exact_replay_has_no_bias_and_no_noise_of_its_own(bench):
    row, samples = bench.measure(bench.variant(source="rollout", replay="all"))
    assert max(abs(row.bias), row.bias_rms, row.std) < 1e-5
    assert not row.biased and row.gradient_scale == pytest.approx(1.0, abs=1e-4)
    assert_unbiased_along(samples, bench.target.gradient)


def test_drawn_steps_are_unbiased_at_more_noise(bench):
    row, samples = bench.measure(bench.variant(source="rollout", replay="drawn", num_draws=1))
    assert row.bias_low < 0 < row.bias_high and row.std > 0.1
    assert not row.biased and row.gradient_std > reinforce_row(bench.batches, bench.target).gradient_std
    assert_unbiased_along(samples, bench.target.gradient)


def test_a_wrong_estimator_is_found_out(bench):
    row, _ = bench.measure(bench.variant(Shrunk, source="rollout", replay="all"))
    assert row.biased and row.bias_low > 0
    assert row.gradient_scale == pytest.approx(0.8, abs=0.1)
    assert row.cosine_of_mean == pytest.approx(1.0, abs=0.02)  # only its length is wrong


def test_low_confidence_replayed_with_the_probability_of_the_choice_is_unbiased():
    model = build_model(0)  # untrained: unsure of both places, so that the choice matters
    masking = DiffusionMaskingStrategy(0.0, STEPS, "linear")
    bench = Bench((math.nan, masking, AnswerDenoiser(model, MASK, head=model.lm_head)), selection="low_confidence")
    row, samples = bench.measure(bench.variant(ESTIMATORS["selection_replay"], replay="all"))
    assert not row.biased and row.bias_rms > 0.1  # of the path, not of the completion
    assert_unbiased_along(samples, bench.target.gradient)


def test_negative_advantages_use_their_own_values(bench):
    variant, batch = bench.variant(ESTIMATORS["spg"]), bench.batches[0]
    found, _ = bench.comparison.score(variant.estimator, batch.prompt, batch.trajectory, torch.Generator())
    assert not torch.equal(found.negative_logps, found.per_token_logps)
    ones = torch.ones_like(batch.advantages)
    assert surrogate(found, ones).item() == pytest.approx(found.per_token_logps.sum(dim=1).mean().item(), abs=1e-5)
    assert surrogate(found, -ones).item() == pytest.approx(-found.negative_logps.sum(dim=1).mean().item(), abs=1e-5)


def test_equal_seeds_give_equal_rows(bench):
    variant = bench.variant(num_draws=1)
    assert bench.comparison.likelihood(variant, 4, 3) == bench.comparison.likelihood(variant, 4, 3)
    assert torch.equal(*(bench.comparison.gradients(variant, bench.batches[:2]) for _ in range(2)))
