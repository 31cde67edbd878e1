"""The intervals are the textbook ones where the textbook applies, and cover where it does not."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from trainers.evaluating.statistics import (
    Z95,
    Interval,
    clustered_mean,
    gain,
    independent,
    mcnemar,
    numbered,
    paired_difference,
    pass_at,
    wilson,
)


def half_width(interval: Interval) -> float:
    return (interval.high - interval.low) / 2


def spread(outcomes, clusters) -> Interval:
    """The interval of a mean of any numbers."""
    return paired_difference([0.0] * len(outcomes), outcomes, clusters)


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
    interval = spread(outcomes, range(37))
    error = outcomes.std(ddof=1) / math.sqrt(37)
    assert (interval.value, interval.low, interval.high) == pytest.approx(
        (outcomes.mean(), outcomes.mean() - 1.96 * error, outcomes.mean() + 1.96 * error)
    )


def test_copies_inside_a_cluster_add_no_information():
    outcomes = np.random.default_rng(1).integers(0, 2, size=40).astype(float)
    once = spread(outcomes, range(40))
    thrice = spread(np.tile(outcomes, 3), [*range(40)] * 3)
    as_if_independent = spread(np.tile(outcomes, 3), range(120))
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
    first, second = spread(outcomes, clusters.tolist()), spread(outcomes[order], renamed)
    assert (first.value, first.low, first.high) == pytest.approx((second.value, second.low, second.high))


def test_clusters_of_unequal_size_match_the_sandwich_by_hand():
    # mean 1/2; residual sums: a +1 (two members), b -1/2, c -1/2; variance 3/2 (1 + 1/4 + 1/4) / 4^2
    interval = spread([1.0, 1.0, 0.0, 0.0], ["a", "a", "b", "c"])
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
    assert clustered_mean([0.0, 1.0], ["same", "same"]) == Interval(0.5, 0.0, 1.0)
    assert gain([0.0, 0.0], [0.0, 1.0], ["same", "same"]) == Interval(0.5, -1.0, 1.0)
    assert spread([0.0, 1.0], ["same", "same"]) == Interval(0.5, -math.inf, math.inf)


@pytest.mark.parametrize("right", [0, 1, 7, 36, 37])
def test_right_or_wrong_problems_that_are_independent_get_wilsons_interval(right):
    outcomes = [1.0] * right + [0.0] * (37 - right)
    assert clustered_mean(outcomes, range(37)) == wilson(right, 37)


def test_clusters_get_wilsons_interval_with_the_effective_trials():
    """Its ends are where |share - end| is 1.96 clustered errors, scaled to the variance that the end itself has."""
    rng = np.random.default_rng(5)
    clusters = np.repeat(np.arange(30), rng.integers(1, 6, size=30)).tolist()
    outcomes = (rng.random(30) < 0.8).astype(float)[clusters]  # the members of a cluster agree
    interval, error = clustered_mean(outcomes, clusters), half_width(spread(outcomes, clusters)) / Z95
    share = interval.value
    for end in (interval.low, interval.high):
        scaled = error * math.sqrt(end * (1 - end) / (share * (1 - share)))
        assert abs(share - end) == pytest.approx(Z95 * scaled)


def test_members_of_equal_outcome_count_as_one_problem():
    # 20 problems, each three times: the effective trials are those of the 20, n* = n - 1 by the factor G / (G - 1)
    outcomes = [1.0] * 6 + [0.0] * 14
    thrice = clustered_mean(outcomes * 3, [*range(20)] * 3)
    share, trials = 0.3, 19
    centre = (share + Z95**2 / (2 * trials)) / (1 + Z95**2 / trials)
    assert (thrice.low + thrice.high) / 2 == pytest.approx(centre)


def test_clusters_never_count_for_more_than_independent_problems():
    """One of each pair is right: the clustered error is 0, by chance or not."""
    pairs = clustered_mean([1.0, 0.0] * 20, [i // 2 for i in range(40)])
    independent_error = half_width(spread([1.0, 0.0] * 20, range(40)))
    assert half_width(pairs) == pytest.approx(independent_error, rel=0.06)  # Wilson's shrinks by 1 + z^2 / n*
    assert pairs.low < 0.36 and pairs.high > 0.64


def test_no_interval_leaves_the_possible_values():
    rng = np.random.default_rng(6)
    for _ in range(300):
        groups = int(rng.integers(1, 12))
        clusters = rng.integers(0, groups, size=int(rng.integers(1, 25))).tolist()
        chance = rng.choice([0.02, 0.5, 0.98])
        first, second = (
            rng.binomial(4, chance, size=len(clusters)) / 4 if rng.random() < 0.5
            else (rng.random(len(clusters)) < chance).astype(float)
            for _ in range(2)
        )  # fmt: skip
        share, difference = clustered_mean(first, clusters), gain(first, second, clusters)
        assert 0 <= share.low <= share.value <= share.high <= 1
        assert -1 <= difference.low <= difference.value <= difference.high <= 1


def test_a_share_is_refused_numbers_outside_0_and_1():
    with pytest.raises(ValueError, match=r"from -0.5 to 1: a share needs them in \[0, 1\]"):
        clustered_mean([-0.5, 1.0], "ab")


@pytest.mark.parametrize("chance", [0.1, 0.9, 0.98])
def test_coverage_is_near_nominal_where_plus_minus_errors_fail(chance):
    """600 studies of 60 clusters of 1 to 6 problems that succeed or fail together, near an end of [0, 1].

    Beside three standard errors of the simulation (.027), 1.5 points are allowed: the discreteness of 60 successes.
    """
    rng, covered, plus_minus, outside, studies = np.random.default_rng(4), 0, 0, 0, 600
    for _ in range(studies):
        clusters = np.repeat(np.arange(60), rng.integers(1, 7, size=60))
        outcomes = (rng.random(60) < chance).astype(float)[clusters]
        ours, plain = clustered_mean(outcomes, clusters.tolist()), spread(outcomes, clusters.tolist())
        covered += ours.low <= chance <= ours.high
        plus_minus += plain.low <= chance <= plain.high
        outside += plain.low < 0 or plain.high > 1
    assert abs(covered / studies - 0.95) < 3 * math.sqrt(0.95 * 0.05 / studies) + 0.015
    assert plus_minus < covered and outside > 0


def test_independent_means_one_problem_a_cluster():
    assert independent("abc") and not independent("aba")
    assert numbered("bacab") == [0, 1, 2, 1, 0]


def test_no_change_is_a_difference_of_0():
    outcomes = [0.0, 1.0, 1.0, 0.0]
    assert paired_difference(outcomes, outcomes, "aabb") == Interval(0.0, 0.0, 0.0)


def test_paired_difference_is_the_clustered_mean_of_the_differences():
    before, after, clusters = [0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0], "aabc"
    assert paired_difference(before, after, clusters) == spread([1.0, 0.0, 1.0, -1.0], clusters)


def test_swapping_before_and_after_flips_the_sign():
    before, after, clusters = [0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], "abcd"
    gain, loss = paired_difference(before, after, clusters), paired_difference(after, before, clusters)
    assert (gain.value, gain.low, gain.high) == (-loss.value, -loss.high, -loss.low)


# ---- pass@k ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_k_subsets_that_contain_a_right_sample(n):
    for right, k in itertools.product(range(n + 1), range(1, n + 1)):
        samples = [True] * right + [False] * (n - right)
        subsets = list(itertools.combinations(samples, k))
        share = Fraction(sum(any(subset) for subset in subsets), len(subsets))
        assert pass_at(k, right, n) == pytest.approx(float(share), abs=1e-15)


def test_pass_at_k_is_unbiased():
    """The mean over Binomial(n, p) of the estimate is 1 - (1 - p)^k, exactly."""
    n, chance = 9, Fraction(3, 10)
    for k in range(1, n + 1):
        law = [math.comb(n, c) * chance**c * (1 - chance) ** (n - c) for c in range(n + 1)]
        mean = sum(float(p) * pass_at(k, c, n) for c, p in enumerate(law))
        assert mean == pytest.approx(1 - float(1 - chance) ** k, abs=1e-14)


def test_pass_at_1_is_the_share_of_right_samples_and_pass_at_n_whether_there_is_one():
    assert [pass_at(1, right, 4) for right in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert [pass_at(4, right, 4) for right in range(5)] == [0, 1, 1, 1, 1]


@pytest.mark.parametrize(("k", "right", "n"), [(0, 0, 1), (2, 0, 1), (1, 2, 1), (1, -1, 1)])
def test_pass_at_k_refuses_impossible_counts(k, right, n):
    with pytest.raises(ValueError, match=rf"k={k}, right={right}, n={n}"):
        pass_at(k, right, n)


# ---- McNemar --------------------------------------------------------------------------------------------------------


def test_mcnemar_is_the_share_of_sign_patterns_at_least_as_uneven():
    for before, after in itertools.product(range(6), repeat=2):
        n = before + after
        uneven = [abs(2 * sum(signs) - n) >= abs(before - after) for signs in itertools.product((0, 1), repeat=n)]
        assert mcnemar(before, after) == pytest.approx(sum(uneven) / len(uneven), abs=1e-15)


@pytest.mark.parametrize(
    ("before", "after", "p"),
    # 2 / 2^n where all go one way; 2 (1 + 10) / 2^10; nothing where as many go either way
    [(0, 5, 2 / 32), (10, 0, 2 / 1024), (1, 9, 22 / 1024), (7, 7, 1.0), (0, 0, 1.0), (0, 2000, 0.0)],
)
def test_mcnemar_in_closed_form(before, after, p):
    assert mcnemar(before, after) == mcnemar(after, before) == pytest.approx(p, rel=1e-12)


def test_mcnemar_refuses_negative_counts():
    with pytest.raises(ValueError, match="only_before=-1"):
        mcnemar(-1, 2)


def test_mcnemar_rejects_no_more_often_than_it_says():
    """Exact: over every table of 12 undecided problems that are equally likely either way, P(p <= x) <= x."""
    law = [(mcnemar(wins, 12 - wins), math.comb(12, wins) / 2**12) for wins in range(13)]
    for level in (0.01, 0.05, 0.2):
        assert sum(chance for p, chance in law if p <= level) <= level


# ---- refusals -------------------------------------------------------------------------------------------------------


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
