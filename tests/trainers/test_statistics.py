"""The intervals are the textbook ones where the textbook applies, and cover where it does not."""

import math

import numpy as np
import pytest

from trainers.statistics import Interval, clustered_mean, paired_difference, wilson


def half_width(interval: Interval) -> float:
    return (interval.high - interval.low) / 2


def test_an_interval_reads_as_percent():
    assert str(Interval(0.6389, 0.61, 0.667)) == "63.9% [61.0, 66.7]"


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # 8/10 and 0/10 as in Agresti & Coull 1998 and Newcombe 1998; 15/148 is Newcombe's own example
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (15, 148, 0.0624, 0.1605)],
)
def test_wilson_has_its_published_values(successes, n, low, high):
    interval = wilson(successes, n)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)


def test_wilson_ends_are_where_the_score_test_is_at_its_limit():
    interval = wilson(7, 23, z=1.5)
    for end in (interval.low, interval.high):
        assert abs(7 / 23 - end) / math.sqrt(end * (1 - end) / 23) == pytest.approx(1.5)


def test_wilson_is_symmetric_in_success_and_failure():
    hits, misses = wilson(3, 17), wilson(14, 17)
    assert (hits.low, hits.high) == pytest.approx((1 - misses.high, 1 - misses.low))


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match=rf"successes={successes}, n={n}"):
        wilson(successes, n)


def test_singleton_clusters_give_the_ordinary_interval_of_a_mean():
    outcomes = np.random.default_rng(0).normal(size=37)
    interval = clustered_mean(outcomes, range(37))
    error = outcomes.std(ddof=1) / math.sqrt(37)
    assert (interval.value, interval.low, interval.high) == pytest.approx(
        (outcomes.mean(), outcomes.mean() - 1.96 * error, outcomes.mean() + 1.96 * error)
    )


def test_copies_inside_a_cluster_add_no_information():
    outcomes = np.random.default_rng(1).integers(0, 2, size=40).astype(float)
    once = clustered_mean(outcomes, range(40))
    thrice = clustered_mean(np.tile(outcomes, 3), [*range(40)] * 3)
    as_if_independent = clustered_mean(np.tile(outcomes, 3), range(120))
    # G, the number of clusters, is unchanged, so the CR1 factor is too
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    # 120 "independent" copies: the variance shrinks by 3, and its factor goes from 40/39 to 120/119
    factor = math.sqrt((120 / 119) / (40 / 39) / 3)
    assert half_width(as_if_independent) == pytest.approx(half_width(once) * factor)


def test_the_order_and_the_names_of_clusters_do_not_matter():
    rng = np.random.default_rng(2)
    outcomes, clusters = rng.normal(size=30), rng.integers(0, 9, size=30)
    order = rng.permutation(30)
    renamed = [("template", int(c)) for c in clusters[order]]
    first, second = clustered_mean(outcomes, clusters.tolist()), clustered_mean(outcomes[order], renamed)
    assert (first.value, first.low, first.high) == pytest.approx((second.value, second.low, second.high))


def test_clusters_of_unequal_size_match_the_sandwich_by_hand():
    # mean 1/2; residual sums: a +1 (two members), b -1/2, c -1/2; variance 3/2 (1 + 1/4 + 1/4) / 4^2
    interval = clustered_mean([1.0, 1.0, 0.0, 0.0], ["a", "a", "b", "c"])
    assert half_width(interval) == pytest.approx(1.96 * math.sqrt(1.5 * 1.5 / 16))


def test_coverage_is_nominal_where_independence_would_fail():
    """400 studies of 60 clusters of 1 to 6 problems that share a difficulty."""
    rng = np.random.default_rng(3)
    covered, covered_if_independent, studies = 0, 0, 400
    for _ in range(studies):
        clusters = np.repeat(np.arange(60), rng.integers(1, 7, size=60))
        chance = rng.beta(0.5, 0.5, size=60)[clusters]  # mean 1/2
        outcomes = (rng.random(len(clusters)) < chance).astype(float)
        right, wrong = clustered_mean(outcomes, clusters.tolist()), clustered_mean(outcomes, range(len(clusters)))
        covered += right.low <= 0.5 <= right.high
        covered_if_independent += wrong.low <= 0.5 <= wrong.high
    error = math.sqrt(0.95 * 0.05 / studies)
    assert abs(covered / studies - 0.95) < 3 * error
    assert covered_if_independent / studies < 0.95 - 6 * error


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_unanimous_outcomes_get_wilson_over_clusters(value):
    assert clustered_mean([value] * 6, [1, 1, 2, 2, 3, 3]) == wilson(3 * int(value), 3)


def test_equal_outcomes_other_than_0_and_1_have_no_spread():
    assert clustered_mean([0.1] * 3, "abc") == Interval(0.1, 0.1, 0.1)


def test_a_single_cluster_tells_nothing_about_the_spread():
    interval = clustered_mean([0.0, 1.0], ["same", "same"])
    assert (interval.value, interval.low, interval.high) == (0.5, -math.inf, math.inf)


def test_no_change_is_a_difference_of_0():
    outcomes = [0.0, 1.0, 1.0, 0.0]
    assert paired_difference(outcomes, outcomes, "aabb") == Interval(0.0, 0.0, 0.0)


def test_paired_difference_is_the_clustered_mean_of_the_differences():
    before, after, clusters = [0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0], "aabc"
    assert paired_difference(before, after, clusters) == clustered_mean([1.0, 0.0, 1.0, -1.0], clusters)


def test_swapping_before_and_after_flips_the_sign():
    before, after, clusters = [0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], "abcd"
    gain, loss = paired_difference(before, after, clusters), paired_difference(after, before, clusters)
    assert (gain.value, gain.low, gain.high) == (-loss.value, -loss.high, -loss.low)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clustered_mean([], []), "no outcomes"),
        (lambda: clustered_mean([1.0], [1, 2]), "1 outcomes and 2 clusters"),
        (lambda: paired_difference([], [], []), "no outcomes"),
        (lambda: paired_difference([1.0], [1.0, 0.0], [1, 2]), "1 outcomes before and 2 after"),
        (lambda: paired_difference([1.0], [1.0], [1, 2]), "1 outcomes and 2 clusters"),
    ],
)
def test_unequal_or_empty_input_is_named_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
