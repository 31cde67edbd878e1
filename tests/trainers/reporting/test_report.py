"""The report says the numbers it was given, twice (markdown and JSON), and never fails for want of one."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from reports import SUMMARY, cells, entry, grpo_log, held_out, ink, write

from trainers.reporting.terminal_table import metrics_table


def test_report_says_what_it_was_given(tmp_path):
    report = write(tmp_path)
    assert report.startswith("# grpo on gsm8k\n")
    for text in ("scripts/train.py configs/x.yaml --seed 3", "- seen once", "(curves.png)", "(results.json)"):
        assert text in report
    assert cells(report, "torch") == ["torch", "9.8.7"]
    assert cells(report, "training") == ["training", "333"]
    assert cells(report, "Tom has 4") == ["Tom has 4", "5", "7"]


def test_results_hold_the_numbers_of_the_report(tmp_path):
    write(tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["held_out"] == held_out()
    assert results["log_history"] == grpo_log()
    assert results["metrics_over_run"][-1]["nelbo_standard_error"] == 1.5
    assert results["settings"]["loss"] == {"alpha_schedule": "linear"}


def test_results_stay_json_when_numbers_are_not(tmp_path):
    infinite = {"after": {"greedy strict": entry(1.0, -math.inf, math.inf)}}
    log = grpo_log(reward=math.nan, grad_norm=np.float32(0.5), path=Path("x"))
    write(tmp_path, log_history=log, held_out=infinite)

    def refuse(constant: str):
        raise AssertionError(f"{constant} is not JSON")

    results = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert results["held_out"]["after"]["greedy strict"] == entry(1.0, None, None)
    assert results["log_history"][0]["reward"] is None
    assert results["log_history"][0]["grad_norm"] == 0.5


def test_a_second_report_replaces_the_first_and_leaves_nothing_else(tmp_path):
    write(tmp_path / "run", title="first")
    assert "first" not in write(tmp_path / "run", title="second")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "curves.png", "report.html", "report.md", "results.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "log",
    [
        [],
        [{**SUMMARY, "step": 3}],
        [{"step": 1, "loss": 0.1}],
        [{"reward": 0.5}],
        [{"step": 1, "reward": None, "nelbo": None}],
    ],
    ids=["empty", "summary", "loss", "no step", "none"],
)
def test_missing_metrics_stop_nothing(tmp_path, log):
    report = write(tmp_path, log_history=log, held_out=None, samples=[], seconds={}, notes=[], settings={})
    assert "Not measured." in report
    assert ink(tmp_path / "curves.png")[1] > 1000
    metrics_table(log)
