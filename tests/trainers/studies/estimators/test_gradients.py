"""Bias and spread of gradients that were made up are those put in."""

import math

import pytest
import torch
from comparing import EMPTY

from trainers.studies.estimators.gradients import compare_gradients


def test_bias_and_spread_of_made_up_gradients_are_those_put_in():
    noise = torch.Generator().manual_seed(0)
    exact = torch.randn(50, generator=noise)
    exact /= exact.norm()
    direction = torch.randn(50, generator=noise)
    direction -= exact * (direction @ exact)
    reinforce = exact + torch.randn(400, 50, generator=noise)
    own = 0.1 * torch.randn(400, 50, generator=noise)

    fair = compare_gradients(EMPTY, reinforce + own, reinforce, exact)
    assert not fair.biased and fair.gradient_bias_floor < 0.04
    assert fair.gradient_std == pytest.approx(math.sqrt(50 * 1.01), rel=0.02)

    skewed = compare_gradients(EMPTY, reinforce + own + 0.5 * direction / direction.norm(), reinforce, exact)
    assert skewed.biased and skewed.gradient_bias == pytest.approx(0.5, abs=0.02)
    assert skewed.gradient_scale == pytest.approx(1.0, abs=0.02)
    assert skewed.cosine_of_mean == pytest.approx(1 / math.sqrt(1.25), abs=0.02)


def test_a_fair_estimator_is_seldom_called_biased():
    noise = torch.Generator().manual_seed(1)
    exact = torch.ones(1)
    rows = []
    for _ in range(500):  # one direction: the worst case for the normal approximation
        reinforce = torch.randn(60, 1, generator=noise)
        samples = reinforce + torch.randn(60, 1, generator=noise)
        rows.append(compare_gradients(EMPTY, samples, reinforce, exact))
    assert sum(row.biased for row in rows) <= 15
    assert sum(row.gradient_bias == 0 for row in rows) > 250  # the estimate of the square is centred, not positive
