"""Tables say the numbers they were given, and leave out what nobody logged."""

import json
import re

import pytest
from reports import FLOW, NAMES, ROLLED_OUT, SUMMARY, cells, grpo_log, held_out, sft_log, write


def test_accuracies_stand_before_after_and_as_difference(tmp_path):
    report = write(tmp_path)
    for i, name in enumerate(NAMES):
        assert cells(report, name) == [
            name,
            f"{40 + i}.0% [37.5, 46.6]",
            f"{60 + i}.0% [57.5, 66.6]",
            "+20.0 [+15.5, +24.5]",
        ]


def test_a_run_without_a_before_has_empty_cells(tmp_path):
    row = cells(write(tmp_path, held_out={"after": held_out()["after"]}), "greedy strict")
    assert row[2] == "62.0% [57.5, 66.6]"
    assert row[1] == row[3] == "–"  # noqa: RUF001


def test_the_parts_of_a_step_add_up_to_it(tmp_path):
    report = write(tmp_path)
    assert cells(report, "rollout") == ["rollout", "1.25", "50%"]
    assert cells(report, "scoring") == ["scoring", "0.5", "20%"]
    assert cells(report, "backward") == ["backward", "0.625", "25%"]
    assert cells(report, "rest") == ["rest", "0.125", "5%"]
    split = json.loads((tmp_path / "results.json").read_text())["seconds_per_step"]
    assert sum(split.values()) - split["whole step"] == pytest.approx(split["whole step"]) == 2.5


def test_steps_that_replay_a_rollout_count_as_free_of_one(tmp_path):
    log = grpo_log()
    for row in log[1:20:2]:
        del row["time/rollout"]
    assert cells(write(tmp_path, log_history=log), "rollout")[1] == "0.625"


def test_metrics_over_the_run_keep_both_ends_and_about_ten_rows(tmp_path):
    report = write(tmp_path)
    steps = re.findall(r"^\| (\d+) \|", report, flags=re.MULTILINE)
    assert steps[0] == "10" and steps[-1] == "200" and len(steps) == 10
    row = cells(report, "200")
    assert row[1:4] == ["0.8", "0.7", "20 ± 1.5"]
    assert row[4:] == ["0.02", "0.31", "51.25", "64", "1,843", "911"]


def test_a_column_nobody_logged_is_left_out(tmp_path):
    assert "entropy" in write(tmp_path)
    assert "entropy" not in write(tmp_path, log_history=grpo_log(entropy=None))


def test_kl_takes_the_place_of_the_ratio_where_it_was_logged(tmp_path):
    without, with_kl = write(tmp_path), write(tmp_path, log_history=grpo_log(kl=0.0123))
    assert "log ratio" in without and "KL" not in without
    assert "log ratio" not in with_kl and "0.0123" in cells(with_kl, "200")


def test_columns_of_scheduled_sampling_and_of_flow_matching_come_with_their_metrics(tmp_path):
    ours = ("rollout probability", "self-revealed accuracy", "exposure bias")
    plain = write(tmp_path, log_history=sft_log())
    assert not any(label in plain for label in (*ours, "cross-entropy"))
    masked = write(tmp_path, log_history=sft_log(**ROLLED_OUT))
    assert all(label in masked for label in ours)
    assert cells(masked, "100") == ["100", "2", "100", "0.25", "0.375", "4.5"]
    flow = write(tmp_path, log_history=sft_log(**FLOW))
    assert "cross-entropy (nats per token)" in flow and "NELBO" not in flow
    assert cells(flow, "100") == ["100", "2", "2.125"]


def test_time_of_scheduled_sampling_is_a_part_of_the_step_where_it_was_logged(tmp_path):
    assert "scheduled_sampling" not in write(tmp_path)
    report = write(tmp_path, log_history=grpo_log(**{"time/scheduled_sampling": 0.0625}))
    assert cells(report, "scheduled_sampling") == ["scheduled_sampling", "0.0625", "2%"]
    assert cells(report, "rest") == ["rest", "0.0625", "2%"]


def test_a_run_that_logged_nothing_says_so(tmp_path):
    assert "No metrics were logged." in write(tmp_path, log_history=[{**SUMMARY, "step": 3}])


def test_metrics_that_came_with_the_summary_are_shown(tmp_path):
    """3 steps at logging_steps 10: TRL merges what it has into the one entry there is."""
    report = write(tmp_path, log_history=[{**SUMMARY, "step": 3, "reward": 0.456, "nelbo": 12.5}])
    assert cells(report, "3") == ["3", "0.456", "12.5"]


@pytest.mark.parametrize("error", [0.0, None])
def test_a_bound_without_an_error_is_shown_without_one(tmp_path, error):
    report = write(tmp_path, log_history=grpo_log(nelbo_standard_error=error))
    assert "±" not in report.split("Metrics over the run")[1] and "NELBO (nats" in report
    rows = json.loads((tmp_path / "results.json").read_text())["metrics_over_run"]
    assert all("nelbo_standard_error" not in row for row in rows)
