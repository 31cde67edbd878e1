"""Intervals over seeds and problems: Student's quantile, and how both sources of chance add up."""

import math
from collections.abc import Sequence

import numpy as np

from trainers.evaluating.statistics import Interval


def with_seeds(problems: Interval, by_seed: Sequence[float]) -> Interval:
    """Widen an interval over problems by the spread over seeds.

    Args:
        problems: of the mean over seeds, with the problems as the only source of chance.
        by_seed: one value a seed, with ``problems.value`` as their mean.
    """
    count = len(by_seed)
    half = student95(count - 1)
    if count > 1:
        half *= deviation(by_seed) / math.sqrt(count)
    value = problems.value
    return Interval(
        value, value - math.hypot(half, value - problems.low), value + math.hypot(half, problems.high - value)
    )


def deviation(values: Sequence[float]) -> float:
    """Standard deviation with n - 1; 0 for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def student95(degrees: int) -> float:
    """The t for which Student's |T| stays below it with probability 0.95, by bisection; infinite without degrees."""
    if degrees < 1:
        return math.inf
    low, high = 1.0, 13.0  # the quantile falls from 12.71 at one degree to 1.96
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if student_share(middle, degrees) < 0.95 else (low, middle)
    return (low + high) / 2


def student_share(t: float, degrees: int) -> float:
    """P(|T| < t) for Student's T with whole degrees of freedom (Abramowitz & Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    if degrees == 1:
        return 2 * angle / math.pi
    term = total = cosine if degrees % 2 else 1.0
    for k in range(2 + degrees % 2, degrees, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    return 2 / math.pi * (angle + sine * total) if degrees % 2 else sine * total
