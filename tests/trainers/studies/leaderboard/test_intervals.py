"""Student's quantile is the tabulated one, and half-widths add in squares."""

import math

import pytest

from trainers.evaluating.statistics import Interval
from trainers.studies.leaderboard.intervals import student95, with_seeds


@pytest.mark.parametrize("degrees, quantile", [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622)])
def test_students_quantile_is_the_tabulated_one(degrees, quantile):
    assert student95(degrees) == pytest.approx(quantile, abs=1e-4)


def test_an_interval_over_seeds_and_problems_adds_half_widths_in_squares():
    found = with_seeds(Interval(0.5, 0.4, 0.7), [0.4, 0.5, 0.6])
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert found.low == pytest.approx(0.5 - math.hypot(half, 0.1), abs=1e-6)
    assert found.high == pytest.approx(0.5 + math.hypot(half, 0.2), abs=1e-6)
    assert with_seeds(Interval(0.5, 0.4, 0.6), [0.5]).low == -math.inf
