"""The report says the numbers it was given, twice (markdown and JSON), and never fails for want of one."""

import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from trainers.reporting.report import curves_png, metrics_table, sft_curves_png, write_report

NAMES = ("sampled strict", "sampled lenient", "greedy strict", "greedy lenient")
SUMMARY = {"train_runtime": 51.5, "train_loss": 0.02, "total_flos": 0.0, "epoch": 1.0, "step": 200}


def grpo_log(**overrides) -> list[dict]:
    """20 rows of a GRPO run, an evaluation, the summary."""
    rows = [
        {
            "step": 10 * i,
            "epoch": i / 20,
            "loss": 0.011,
            "reward": 0.3 + i / 40,
            "rewards/correctness/mean": 0.2 + i / 40,
            "rewards/correctness/std": 0.4,
            "nelbo": 40.0 - i,
            "nelbo_standard_error": 1.5,
            "ratio_log_std": 0.02,
            "entropy": 0.31,
            "completions/mean_length": 51.25,
            "rollout/forwards_per_completion": 64.0,
            "rollout/tokens_per_second": 1843.0,
            "loss/tokens_per_second": 911.0,
            "step_time": 2.5,
            "time/rollout": 1.25,
            "time/scoring": 0.5,
            "time/backward": 0.625,
            **overrides,
        }
        for i in range(1, 21)
    ]
    return [*rows, {"step": 200, "eval_reward": 0.77}, SUMMARY]


def sft_log(**metrics) -> list[dict]:
    """10 rows of an SFT run with further metrics, two evaluations, the summary; None leaves a metric out."""
    rows = [
        {"step": s, "loss": 3.0 - s / 100, "nelbo": 150.0 - s / 2, "grad_norm": 1.0, **metrics}
        for s in range(10, 110, 10)
    ]
    rows = [{key: value for key, value in row.items() if value is not None} for row in rows]
    return [*rows, {"step": 50, "eval_loss": 2.75}, {"step": 100, "eval_loss": 2.25}, {**SUMMARY, "step": 100}]


ROLLED_OUT = {
    "scheduled_sampling/probability": 0.25,
    "scheduled_sampling/accuracy": 0.375,
    "scheduled_sampling/exposure_bias": 4.5,
    "scheduled_sampling/nelbo_rolled_out": 120.0,
    "scheduled_sampling/forwards": 5.0,
}
FLOW = {"nelbo": None, "cross_entropy": 2.125}


def entry(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def held_out() -> dict:
    return {
        "before": {name: entry(0.4 + i / 100, 0.375, 0.466) for i, name in enumerate(NAMES)},
        "after": {name: entry(0.6 + i / 100, 0.575, 0.666) for i, name in enumerate(NAMES)},
        "difference": {name: entry(0.2, 0.155, 0.245) for name in NAMES},
    }


def write(directory: Path, **overrides) -> str:
    arguments = {
        "title": "grpo on gsm8k",
        "command": "python scripts/train.py configs/x.yaml --seed 3",
        "settings": {"trainer": "grpo", "loss": {"alpha_schedule": "linear"}},
        "environment": {"device": "TestCPU", "torch": "9.8.7"},
        "log_history": grpo_log(),
        "held_out": held_out(),
        "samples": [{"prompt": "Tom has 4", "before": "5", "after": "7"}],
        "seconds": {"training": 333.0},
        "notes": ["seen once"],
    }
    return write_report(directory, **(arguments | overrides)).read_text()


def cells(report: str, first: str) -> list[str]:
    """Cells of the table row that starts with ``first``."""
    [row] = [line for line in report.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def ink(path: Path) -> tuple[tuple[int, int], int]:
    """Size of an image, and the number of its pixels that are not white."""
    with Image.open(path) as image:
        image.load()
        pixels = np.asarray(image.convert("L"))
        return image.size, int((pixels < 250).sum())


# ---- report.md ------------------------------------------------------------------------------------------------------


def test_report_says_what_it_was_given(tmp_path):
    report = write(tmp_path)
    assert report.startswith("# grpo on gsm8k\n")
    for text in ("scripts/train.py configs/x.yaml --seed 3", "- seen once", "(curves.png)", "(results.json)"):
        assert text in report
    assert cells(report, "torch") == ["torch", "9.8.7"]
    assert cells(report, "training") == ["training", "333"]
    assert cells(report, "Tom has 4") == ["Tom has 4", "5", "7"]


def test_settings_are_a_yaml_block_that_reads_back(tmp_path):
    settings = {"trainer": "grpo", "loss": {"alpha_schedule": "linear", "alpha_min": 0.05}, "paths": ["a: b", "- c"]}
    [block] = re.findall(r"```yaml\n(.*?)```", write(tmp_path, settings=settings), flags=re.DOTALL)
    assert yaml.safe_load(block) == settings


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


def test_model_text_cannot_break_out_of_its_cell(tmp_path):
    text = "a | b\n\n<<2*3=6>> `x` <script>\\|"
    report = write(tmp_path, samples=[{"prompt": "p", "after": text}])
    assert cells(report, "p")[1] == r"a \| b<br><br>&lt;&lt;2\*3=6>> \`x\` &lt;script>\\\|"
    assert json.loads((tmp_path / "results.json").read_text())["samples"][0]["after"] == text


# ---- results.json ---------------------------------------------------------------------------------------------------


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
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["curves.png", "report.md", "results.json"]


# ---- short runs -----------------------------------------------------------------------------------------------------


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


def test_a_run_that_logged_nothing_says_so(tmp_path):
    assert "No metrics were logged." in write(tmp_path, log_history=[{**SUMMARY, "step": 3}])


def test_metrics_that_came_with_the_summary_are_shown(tmp_path):
    """3 steps at logging_steps 10: TRL merges what it has into the one entry there is."""
    report = write(tmp_path, log_history=[{**SUMMARY, "step": 3, "reward": 0.456, "nelbo": 12.5}])
    assert cells(report, "3") == ["3", "0.456", "12.5"]


# ---- pictures -------------------------------------------------------------------------------------------------------


def test_curves_are_a_real_picture_of_1200_by_900(tmp_path):
    curves_png(grpo_log(), tmp_path / "full.png", held_out())
    curves_png([], tmp_path / "empty.png", None)
    size, full = ink(tmp_path / "full.png")
    assert size == (1200, 900)
    assert full > ink(tmp_path / "empty.png")[1] + 1000


@pytest.mark.parametrize("change", [{"reward": 0.1}, {"nelbo": 7.0}, {"nelbo_standard_error": 9.0}, {"kl": 0.2}])
def test_every_panel_shows_its_metric(tmp_path, change):
    curves_png(grpo_log(**({"kl": 0.1} if "kl" in change else {})), tmp_path / "one.png", held_out())
    curves_png(grpo_log(**change), tmp_path / "two.png", held_out())
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "two.png").read_bytes()


@pytest.mark.parametrize("ends", [(-math.inf, math.inf), (None, None)], ids=["infinite", "read from JSON"])
def test_an_interval_without_finite_ends_can_be_drawn(tmp_path, ends):
    curves_png([], tmp_path / "one.png", {"after": {"greedy strict": entry(0.5, *ends)}})
    assert ink(tmp_path / "one.png")[1] > 1000


def test_sft_curves_show_validation_only_when_there_was_one(tmp_path):
    sft_curves_png(sft_log(), tmp_path / "with.png")
    sft_curves_png([row for row in sft_log() if "eval_loss" not in row], tmp_path / "without.png")
    assert ink(tmp_path / "with.png")[0] == (1200, 500)
    assert ink(tmp_path / "with.png")[1] > ink(tmp_path / "without.png")[1]


def test_sft_curves_show_the_loss_at_rolled_out_states_beside_the_bound(tmp_path):
    pictures = [{}, ROLLED_OUT, ROLLED_OUT | {"scheduled_sampling/nelbo_rolled_out": 110.0}]
    for i, metrics in enumerate(pictures):
        sft_curves_png(sft_log(**metrics), tmp_path / f"{i}.png")
        assert ink(tmp_path / f"{i}.png")[0] == (1200, 500)
    assert ink(tmp_path / "1.png")[1] > ink(tmp_path / "0.png")[1] + 500
    assert (tmp_path / "1.png").read_bytes() != (tmp_path / "2.png").read_bytes()


def test_sft_curves_of_a_flow_show_its_cross_entropy_in_place_of_the_bound(tmp_path):
    on_own = {"scheduled_sampling/cross_entropy_rolled_out": 2.5}
    pictures = [FLOW, FLOW | {"cross_entropy": 2.0}, FLOW | on_own, FLOW | {"nelbo": 100.0}]
    for i, metrics in enumerate(pictures):
        sft_curves_png(sft_log(**metrics), tmp_path / f"{i}.png")
    # equal values fill the same panel: the axes differ, and the bound is not drawn at all
    assert (tmp_path / "0.png").read_bytes() != (tmp_path / "1.png").read_bytes()
    assert ink(tmp_path / "2.png")[1] > ink(tmp_path / "0.png")[1] + 500
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "3.png").read_bytes()


def test_a_supervised_run_gets_the_supervised_picture(tmp_path):
    report = write(tmp_path, log_history=sft_log())
    assert ink(tmp_path / "curves.png")[0] == (1200, 500)
    assert cells(report, "100") == ["100", "2", "100"]


# ---- the terminal ---------------------------------------------------------------------------------------------------


def test_the_terminal_groups_scheduled_sampling_and_puts_cross_entropy_to_the_bound():
    table = metrics_table(sft_log(**ROLLED_OUT, cross_entropy=2.125))
    groups, metrics = (list(table.columns[i].cells) for i in range(2))
    assert metrics[groups.index("bound") :][:2] == ["nelbo", "cross_entropy"]
    assert metrics[groups.index("scheduled sampling") :][: len(ROLLED_OUT)] == list(ROLLED_OUT)


def test_the_terminal_shows_the_last_value_of_each_metric_once():
    out = io.StringIO()
    Console(file=out, width=120).print(metrics_table([*grpo_log(), {"step": 210, "reward": 0.9375}]))
    lines = [re.split(r"\s*│\s*", line.strip("│ \n")) for line in out.getvalue().splitlines() if "│" in line]
    shown = {line[-3]: (line[-2], line[-1]) for line in lines}
    assert shown["reward"] == ("0.9375", "210")
    assert shown["nelbo"] == ("20", "200")
    assert shown["loss/tokens_per_second"] == ("911", "200")
    assert "eval_reward" not in shown and "train_loss" not in shown
    assert [line[0] for line in lines if len(line) == 4] == [
        "reward",
        "bound",
        "ratio",
        "rollout",
        "time",
        "optimiser",
    ]
