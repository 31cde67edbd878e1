"""The curve is a mean over seeds."""

from boards import record

from trainers.studies.leaderboard.picture import curve


def test_a_curve_is_the_mean_over_seeds_at_the_marks_of_the_forwards_budget():
    records = {seed: record("first", seed, "1") for seed in (0, 1)}
    assert curve(records) == [(0.0, 0.25), (40.5, 0.625)]
