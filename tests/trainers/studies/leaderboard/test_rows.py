"""Rows agree with numbers computed by hand."""

import math

import pytest
from boards import record

from trainers.evaluating.statistics import Interval
from trainers.settings.options import ConfigError
from trainers.studies.leaderboard.budgets import FORWARDS
from trainers.studies.leaderboard.intervals import deviation
from trainers.studies.leaderboard.rows import Row, rows


def test_rows_agree_with_numbers_computed_by_hand(board):
    cells = {
        "start": {},
        "first": {0: record("first", 0, "1100"), 1: record("first", 1, "1000")},
        "second": {0: record("second", 0, "1110"), 1: record("second", 1, "1110", failure="step 4: inf")},
    }
    first, second = [row for row in rows(board, cells) if row.budget == FORWARDS]
    assert first.difference is None and not first.tie
    assert first.accuracy["sampled strict"].value == pytest.approx(0.375)
    assert first.deviation["sampled strict"] == pytest.approx(0.25 / math.sqrt(2))  # of 0.5 and 0.25
    assert (second.steps, second.failed, second.chosen_step) == (10.5, 1, 4)
    # per seed +0.25 and +0.5; problems' means 0, 0.5, 1, 0
    assert second.difference is not None
    assert second.difference.value == pytest.approx(0.375)
    seeds = 12.706205 * (0.25 / math.sqrt(2)) / math.sqrt(2)
    residuals = [-0.375, 0.125, 0.625, -0.375]
    problems = 1.96 * math.sqrt(4 / 3 * sum(r**2 for r in residuals)) / 4
    assert second.difference.high == pytest.approx(0.375 + math.hypot(seeds, problems), abs=1e-6)
    assert second.tie


def test_entries_tested_on_different_problems_are_not_compared(board):
    cells = {"start": {}, "first": {0: record("first", 0, "11")}, "second": {0: record("second", 0, "111")}}
    with pytest.raises(ConfigError, match="different problems"):
        rows(board, cells)


def test_one_seed_has_no_interval(board):
    row = Row("x", FORWARDS, 1, 0, 1.0, 1.0, {}, {}, Interval(0.1, -math.inf, math.inf))
    assert row.gain() == "+10.0, tie (one seed)"
    assert deviation([0.3]) == 0.0
