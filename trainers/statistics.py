"""95% intervals for accuracies: Wilson's, and the mean of outcomes that come in clusters.

Several test problems may share one instance (same template and numbers, other names), and then succeed or fail
together. Counting them as independent makes an interval too narrow; here the *cluster* is the unit. The standard error
of the mean is the cluster-robust one with the small-sample factor G / (G - 1) for G clusters (CR1; Liang & Zeger 1986,
Cameron & Miller 2015). Intervals are value +- 1.96 standard errors: the normal quantile, not Student's, so they are a
little narrow below about 40 clusters.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.96  # normal quantile of a two-sided 95% interval


@dataclass(frozen=True)
class Interval:
    """A share (or a difference of shares) with the ends of its interval; 1 is 100%."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1%} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def wilson(successes: int, n: int, z: float = Z95) -> Interval:
    """Score interval of a binomial share (Wilson 1927); never leaves [0, 1], never empty.

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes={successes}, n={n} must satisfy 0 <= successes <= n and n >= 1")
    share, shrink = successes / n, 1 + z**2 / n
    centre = (share + z**2 / (2 * n)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # rounding must not push an end past the share at 0 of n and at n of n
    return Interval(share, min(max(0.0, centre - half), share), max(min(1.0, centre + half), share))


def clustered_mean(outcomes: Sequence[float], clusters: Sequence[Hashable]) -> Interval:
    """Mean of outcomes with a 95% interval that treats outcomes of one cluster as dependent.

    Where every cluster has one member this is the ordinary interval of a mean. If all outcomes are 0, or all are 1,
    the standard error is 0 and says nothing: the interval is then Wilson's with the clusters as trials. Otherwise one
    single cluster tells nothing about the spread, and the ends are infinite.

    Args:
        outcomes: one number a problem.
        clusters: the cluster of each problem.

    Raises:
        ValueError: unequal lengths, or no outcomes.
    """
    interval = _cr1_interval(outcomes, clusters)
    if set(outcomes) in ({0.0}, {1.0}):
        groups = len(set(clusters))
        return wilson(groups if interval.value else 0, groups)
    return interval


def paired_difference(before: Sequence[float], after: Sequence[float], clusters: Sequence[Hashable]) -> Interval:
    """Mean of after - before, problem by problem, with the 95% interval of `clustered_mean`.

    If all differences are equal the interval is that one point.

    Raises:
        ValueError: unequal lengths, or no outcomes.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} outcomes before and {len(after)} after: they must be of the same problems")
    return _cr1_interval([new - old for old, new in zip(before, after, strict=True)], clusters)


def _cr1_interval(outcomes: Sequence[float], clusters: Sequence[Hashable]) -> Interval:
    if len(outcomes) != len(clusters):
        raise ValueError(
            f"{len(outcomes)} outcomes and {len(clusters)} clusters: there must be one cluster an outcome"
        )
    if len(outcomes) == 0:
        raise ValueError("there are no outcomes to average")
    values = np.asarray(outcomes, dtype=float)
    mean = float(values.mean())
    numbers: dict[Hashable, int] = {}
    member = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    groups = len(numbers)
    if groups == 1:
        return Interval(mean, -math.inf, math.inf)
    if (values == values[0]).all():  # exactly one point, not one up to the rounding of the mean
        return Interval(float(values[0]), float(values[0]), float(values[0]))
    # residuals are summed inside a cluster before they are squared: whatever its members share does not average out
    sums = np.bincount(member, weights=values - mean)
    error = math.sqrt(groups / (groups - 1) * float(sums @ sums)) / len(values)
    return Interval(mean, mean - Z95 * error, mean + Z95 * error)
