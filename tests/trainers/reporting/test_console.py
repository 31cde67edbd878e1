"""Lines of a run: every known number with its label, folded to the terminal, and no bar in a file."""

import math

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

import trainers.reporting.console as console
from trainers.reporting.console import LineProgress, counting, log_line

ROW = {
    "reward": 1.28125,
    "rewards/correctness/mean": 0.515625,
    "rewards/format_reward/mean": 0.765625,
    "rewards/format_reward/std": 0.4,
    "accuracy/strict": 0.5,
    "frac_reward_zero_std": 0.125,
    "completions/mean_length": 10.9,
    "nelbo": 9.27,
    "kl": 0.00012,
    "entropy": 0.75,
    "loss": 0.0039,
    "grad_norm": 1.3,
    "learning_rate": 1e-5,
    "step_time": 2.07,
}
PARTS = (
    "reward 1.281", "correctness 0.516", "format_reward 0.766", "strict accuracy 0.500", "no signal 12%",
    "length 10.9", "nelbo 9.27", "kl 0.0001", "entropy 0.750", "loss 0.0039", "grad 1.30", "lr 1.0e-05", "s/step 2.07",
)  # fmt: skip


@pytest.fixture
def columns(monkeypatch):
    return lambda number: monkeypatch.setenv("COLUMNS", str(number))


@pytest.mark.parametrize("width", [50, 80, 300])
def test_every_value_stays_beside_its_label_and_no_line_is_too_long(columns, width):
    columns(width)
    lines = log_line(ROW, "5/150", "01:30 left").splitlines()
    assert max(map(len, lines)) < width
    assert (len(lines) == 1) is (width == 300)
    for part in (*PARTS, "01:30 left"):
        assert sum(part in line for line in lines) == 1, part
    assert lines[0].startswith("5/150 ") and all(line.startswith(" " * 12) for line in lines[1:])


def test_correctness_that_is_strict_accuracy_is_shown_once(columns):
    columns(200)
    assert "strict" not in log_line(ROW | {"accuracy/strict": 0.515625}, "5/150")


@pytest.mark.parametrize(
    ("error", "shown"), [(1.5, "nelbo 9.27 ± 1.50  "), (0.0, "nelbo 9.27  "), (None, "nelbo 9.27  ")]
)
def test_the_bound_has_an_error_bar_only_where_it_has_an_error(columns, error, shown):
    columns(300)
    assert shown in log_line(ROW | {"nelbo_standard_error": error}, "5/150")


def test_an_evaluation_is_named_and_shows_rewards_and_accuracy(columns):
    columns(300)
    line = log_line({f"eval_{key}": value for key, value in ROW.items()}, "5/150", "01:30 left")
    assert line.startswith("validation ") and all(part in line for part in PARTS) and "left" not in line


def test_a_row_without_known_numbers_is_silent(columns):
    columns(80)
    assert log_line({"train_runtime": 9.0, "reward": math.nan}, "5/150") == ""


def test_a_file_gets_lines_and_no_bar(capsys, columns, tmp_path):
    columns(80)
    progress, args = LineProgress(), TrainingArguments(use_cpu=True, output_dir=str(tmp_path))
    state, control = TrainerState(global_step=0, max_steps=4, is_world_process_zero=True), TrainerControl()
    progress.on_train_begin(args, state, control)
    state.global_step = 2
    progress.on_step_end(args, state, control)
    progress.on_prediction_step(args, state, control, eval_dataloader=[1, 2])
    progress.on_log(args, state, control, logs=ROW)
    progress.on_train_end(args, state, control)
    written = capsys.readouterr()
    assert written.err == "" and written.out.startswith("2/4 ") and " left" in written.out


def test_long_work_says_how_far_it_is_in_a_file(capsys, monkeypatch):
    monkeypatch.setattr(console, "QUIET_SECONDS", 0.0)
    with counting("completions", quiet=False) as say:
        say(1, 3)
        say(3, 3)
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == ["completions: 1 of 3"]
    with counting("completions", quiet=True) as say:
        say(1, 3)
    assert capsys.readouterr().out == ""
