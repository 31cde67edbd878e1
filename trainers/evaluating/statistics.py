"""95% intervals for shares of right answers and for their differences, pass@k, and McNemar's test.

Several test problems may share one instance (same template and numbers, other names), and then succeed or fail
together. Counting them as independent makes an interval too narrow; here the *cluster* is the unit. The standard error
of a mean is the cluster-robust one with the small-sample factor G / (G - 1) for G clusters (CR1; Liang & Zeger 1986,
Cameron & Miller 2015).

The interval of a share is Wilson's score interval, which stays within [0, 1] and is good near its ends. Where every
cluster is one problem that is right or wrong, it is Wilson's own, with the problems as trials. Otherwise the trials
are the *effective* ones, n* = p (1 - p) / error^2 for the clustered standard error: as many independent trials as
would give that error (Korn & Graubard 1998 put n* into an exact interval; Franco et al. 2019 compare seven and favour
Wilson's). As in the standards of the NCHS (Parker et al. 2017) clusters never count for more than independent problems
would: the error is at least that without clusters. The interval of a difference is value +- 1.96 errors. All use the
normal quantile, not Student's, so they are a little narrow below about 40 clusters.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainers.tasks.verdicts import is_reward

Values = Sequence[float | None]  # None: not known
Z95 = 1.96  # normal quantile of a two-sided 95% interval


@dataclass(frozen=True)
class Interval:
    """A share (or a difference of shares) with the ends of its interval; 1 is 100%."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1%} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True)
class Mean(Interval):
    """A mean of rewards (or a difference of means), in their own unit."""

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def score_text(measure: str, entry: Mapping[str, float]) -> str:
    """A measure's value with its interval: a share as a percentage, a reward as it is."""
    return str((Mean if is_reward(measure) else Interval)(**entry))


def change_text(measure: str, entry: Mapping[str, float]) -> str:
    """A difference with its interval: of shares in percentage points, of rewards as it is."""
    scale, form = (1, "+.3f") if is_reward(measure) else (100, "+.1f")
    value, low, high = (format(scale * entry[end], form) for end in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def mean_of(values: Values, clusters: Sequence[Hashable]) -> Mean:
    """Mean of the known values with 1.96 clustered standard errors; NaN where none is known."""
    kept = [(value, cluster) for value, cluster in zip(values, clusters, strict=True) if value is not None]
    if not kept:
        return Mean(math.nan, math.nan, math.nan)
    known, own = zip(*kept, strict=True)
    return Mean(**vars(paired_difference([0.0] * len(known), known, own)))


def means_of(repetitions: Sequence[Sequence[float | None]]) -> list[float | None]:
    """The mean of each problem's known values; None where none is known."""
    known = [[value for value in column if value is not None] for column in zip(*repetitions, strict=True)]
    return [sum(column) / len(column) if column else None for column in known]


def change_of_mean(before: Values, after: Values, clusters: Sequence[Hashable]) -> Mean:
    """`mean_of` after - before, of the problems whose both values are known."""
    pairs = zip(before, after, strict=True)
    return mean_of([None if old is None or new is None else new - old for old, new in pairs], clusters)


def wilson(successes: int, n: int, z: float = Z95) -> Interval:
    """Score interval of a binomial share (Wilson 1927); never leaves [0, 1], never empty.

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes={successes}, n={n} must satisfy 0 <= successes <= n and n >= 1")
    return _score_interval(successes / n, n, z)


def _score_interval(share: float, trials: float, z: float = Z95) -> Interval:
    shrink = 1 + z**2 / trials
    centre = (share + z**2 / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    # rounding must not push an end past the share at 0 of n and at n of n
    return Interval(share, min(max(0.0, centre - half), share), max(min(1.0, centre + half), share))


def independent(clusters: Sequence[Hashable]) -> bool:
    """Whether every cluster is one problem."""
    return len(set(clusters)) == len(clusters)


def clustered_mean(outcomes: Sequence[float], clusters: Sequence[Hashable]) -> Interval:
    """Mean of outcomes in [0, 1] with a 95% interval that treats outcomes of one cluster as dependent.

    See the module's docstring. If all outcomes are 0, or all are 1, there is no error to see: the trials are then the
    clusters. Outcomes that all equal another number give that one point. One single cluster of unequal outcomes tells
    nothing about the spread: the interval is then [0, 1].

    Args:
        outcomes: one number a problem: right or wrong, or the share of its repetitions that were right.
        clusters: the cluster of each problem.

    Raises:
        ValueError: unequal lengths, no outcomes, or one outside [0, 1].
    """
    values, member = _checked(outcomes, clusters)
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"outcomes from {values.min():g} to {values.max():g}: a share needs them in [0, 1]")
    n, groups, mean = len(values), int(member.max()) + 1, float(values.mean())
    whole = bool(((values == 0) | (values == 1)).all())
    if whole and (groups == n or mean in (0.0, 1.0)):
        return wilson(round(mean * groups), groups)
    if (values == values[0]).all():  # exactly one point, not one up to the rounding of the mean
        return Interval(float(values[0]), float(values[0]), float(values[0]))
    if groups == 1:
        return Interval(mean, 0.0, 1.0)
    error = max(_standard_error(values, member), _standard_error(values, np.arange(n)))
    return _score_interval(mean, mean * (1 - mean) / error**2)


def paired_difference(before: Sequence[float], after: Sequence[float], clusters: Sequence[Hashable]) -> Interval:
    """Mean of after - before, problem by problem, with a 95% interval of 1.96 clustered standard errors.

    If all differences are equal the interval is that one point. In one single cluster its ends are infinite.

    Raises:
        ValueError: unequal lengths, or no outcomes.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} outcomes before and {len(after)} after: they must be of the same problems")
    values, member = _checked([new - old for old, new in zip(before, after, strict=True)], clusters)
    mean = float(values.mean())
    if member.max() == 0:
        return Interval(mean, -math.inf, math.inf)
    if (values == values[0]).all():
        return Interval(float(values[0]), float(values[0]), float(values[0]))
    error = _standard_error(values, member)
    return Interval(mean, mean - Z95 * error, mean + Z95 * error)


def gain(before: Sequence[float], after: Sequence[float], clusters: Sequence[Hashable]) -> Interval:
    """`paired_difference` of outcomes in [0, 1], whose ends cannot lie beyond -1 and 1."""
    difference = paired_difference(before, after, clusters)
    return Interval(difference.value, max(difference.low, -1.0), min(difference.high, 1.0))


def _checked(outcomes: Sequence[float], clusters: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes as floats, and the clusters numbered from 0."""
    if len(outcomes) != len(clusters):
        raise ValueError(
            f"{len(outcomes)} outcomes and {len(clusters)} clusters: there must be one cluster an outcome"
        )
    if len(outcomes) == 0:
        raise ValueError("there are no outcomes to average")
    return np.asarray(outcomes, dtype=float), np.array(numbered(clusters))


def numbered(clusters: Iterable[Hashable]) -> list[int]:
    """Clusters as numbers in the order of their first problem."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]


def _standard_error(values: np.ndarray, member: np.ndarray) -> float:
    """CR1, for two clusters or more."""
    # residuals are summed inside a cluster before they are squared: whatever its members share does not average out
    sums = np.bincount(member, weights=values - values.mean())
    groups = len(sums)
    return math.sqrt(groups / (groups - 1) * float(sums @ sums)) / len(values)


def pass_at(k: int, right: int, n: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right, from n samples of which ``right`` are.

    1 - C(n - right, k) / C(n, k): the share of the k-subsets with a right one in it (Chen et al. 2021, 2107.03374,
    eq. 1).

    Raises:
        ValueError: fewer samples than k, or impossible counts.
    """
    if not 1 <= k <= n or not 0 <= right <= n:
        raise ValueError(f"k={k}, right={right}, n={n} must satisfy 1 <= k <= n and 0 <= right <= n")
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def mcnemar(only_before: int, only_after: int) -> float:
    """Two-sided exact p-value of "both are equally often right", from the problems that only one of them solves.

    Given their number, each kind is Binomial(1/2) if that is so (McNemar 1947, exact form). Counts problems as
    independent.

    Raises:
        ValueError: a negative count.
    """
    if min(only_before, only_after) < 0:
        raise ValueError(f"only_before={only_before}, only_after={only_after}: expected counts of at least 0")
    n = only_before + only_after
    tail = sum(math.comb(n, i) for i in range(min(only_before, only_after) + 1))
    return min(1.0, 2 * tail / 2**n)
