"""A leaderboard: budgets that end a run, the checkpoint that is tested, cells that are shared, and the statistics."""

import json
import math
import multiprocessing
import os
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from torch import nn
from transformers import TrainerControl, TrainerState

from trainers.evaluating.evaluation import Evaluation
from trainers.evaluating.statistics import Interval
from trainers.grpo.trainer import ImprovedDiffuGRPOTrainer
from trainers.settings.options import ConfigError
from trainers.studies import leaderboard, leaderboard_report
from trainers.studies.budgets import FORWARDS, SECONDS, Meter, Race, restore_weights, trained_weights
from trainers.studies.leaderboard import Leaderboard, claimed, finished, read_leaderboard
from trainers.studies.leaderboard_report import Row, curve, rows, student95, tables, with_seeds, write_results
from trainers.tasks import gsm8k


def silent(line):
    """Takes a line of progress and says nothing."""


# ---- budgets --------------------------------------------------------------------------------------------------------


def race(validations, forwards, seconds, share=0.5):
    """A race whose steps cost 10 forwards and 1 second, on one weight that equals the number of steps."""
    now = SimpleNamespace(step=0, clock=100.0)
    module = nn.Linear(1, 1, bias=False)
    accuracies = iter(validations)

    def validate():
        now.clock += 1000  # validation takes long, and must not count
        return next(accuracies)

    meters = {FORWARDS: Meter(forwards, share), SECONDS: Meter(seconds, share)}
    runner = Race(module, lambda: 10 * now.step, lambda: now.clock, validate, meters, silent)
    arguments: Any = None  # a race does not look at them
    control = TrainerControl()
    runner.on_train_begin(arguments, TrainerState(), control)
    while not control.should_training_stop:
        now.step, now.clock = now.step + 1, now.clock + 1
        module.weight.data.fill_(now.step)
        runner.on_step_end(arguments, TrainerState(global_step=now.step), control)
    return runner


def test_training_ends_when_both_budgets_are_spent_and_validation_is_free():
    runner = race([0.0] * 9, forwards=40, seconds=8)
    assert [(c.step, c.forwards, c.seconds) for c in runner.candidates] == [
        (0, 0, 0.0),
        (2, 20, 2.0),
        (4, 40, 4.0),
        (8, 80, 8.0),
    ]
    assert [c.due for c in runner.candidates] == [[FORWARDS, SECONDS], [FORWARDS], [FORWARDS, SECONDS], [SECONDS]]
    assert {name: meter.steps for name, meter in runner.meters.items()} == {FORWARDS: 4, SECONDS: 8}


def test_a_candidate_after_its_budget_is_never_chosen():
    runner = race([0.1, 0.2, 0.3, 0.9], forwards=40, seconds=8)
    chosen = {name: candidate.step for name, (candidate, _) in runner.best.items()}
    assert chosen == {FORWARDS: 4, SECONDS: 8}


def test_kept_weights_are_those_of_the_best_validation_and_the_earliest_of_equal_ones():
    runner = race([0.1, 0.5, 0.5, 0.2], forwards=40, seconds=8)
    for candidate, weights in runner.best.values():
        assert candidate.step == 2 and weights["weight"].item() == 2


def test_the_last_candidate_does_not_pass_a_budget_that_no_step_hits():
    runner = race([0.0] * 9, forwards=35, seconds=3.5, share=1.0)
    assert [c.step for c in runner.candidates] == [0, 3]


def test_a_meter_with_slack_expects_a_longer_step():
    bold, careful = Meter(10, 1.0), Meter(10, 1.0, slack=1.25)
    for meter in (bold, careful):
        meter.advance(4.6)
    assert not bold.due() and not bold.exhausted
    assert careful.due() and careful.exhausted and not careful.due()


def test_nothing_is_validated_for_a_budget_that_a_long_step_has_passed():
    meter = Meter(10, 1.0)
    meter.advance(4)
    meter.advance(11)
    assert not meter.due() and meter.exhausted and meter.steps == 1


# ---- the board ------------------------------------------------------------------------------------------------------

BASE = {
    "trainer": "grpo",
    "generation": {"steps": 7, "max_completion_length": 14},
    "task": {"rewards": ["digits"], "train_size": 64, "validation_size": 8, "test_size": 24, "max_operations": 1},
    "training": {
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "num_generations": 4,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "beta": 0.0,
    },
}


@pytest.fixture
def write(tmp_path, model_dir, monkeypatch):
    """Writes the YAML of a board on the micro model with a budget of two steps; keywords replace its keys."""
    monkeypatch.setitem(gsm8k.REWARDS, "digits", digits)
    base = tmp_path / "base.yaml"
    base.write_text(yaml.safe_dump(BASE | {"model": {"name_or_path": str(model_dir)}}))

    def build(**changes):
        document = {
            "base": str(base),
            "output_dir": str(tmp_path / "board"),
            "seeds": [0],
            "forwards": 200,
            "seconds": 1e-6,
            "validate_every": 0.5,
            "entries": {"two draws": {}, "four draws": {"loss.num_draws": 4}},
        }
        path = tmp_path / "board.yaml"
        path.write_text(yaml.safe_dump(document | changes, sort_keys=False))
        return path

    return build


def digits(completions, **kwargs):
    """Something that random weights earn now and then."""
    return [sum(c.isdigit() for c in text) / 20 for text in completions]


BROKEN = 0.125  # learning rate of a run whose loss cannot be computed


def breaking(compute_loss):
    def compute(trainer, model, inputs):
        if trainer.args.learning_rate == BROKEN:
            raise ZeroDivisionError("no digits")
        return compute_loss(trainer, model, inputs)

    return compute


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"forward": 3}, "unknown key 'forward': did you mean 'forwards'?"),
        ({"base": None}, "base is missing"),
        ({"seeds": [0, 0]}, "each seed once"),
        ({"seconds": 0}, "seconds=0: expected a number above 0"),
        ({"validate_every": 2}, "validate_every=2"),
        ({"entries": {"a b": {}, "a-b": {}}}, "different file names"),
        ({"entries": {"start": {}}}, "expected another name"),
    ],
)
def test_a_bad_board_is_one_clear_error(write, changes, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        read_leaderboard(write(**changes))


def test_a_bad_option_of_an_entry_names_the_entry(write):
    board = read_leaderboard(write(entries={"odd": {"loss.num_draw": 2}}))
    with pytest.raises(ConfigError, match=r"entry 'odd': unknown setting 'loss\.num_draw'"):
        board.config("odd", 0)


def test_a_learning_rate_that_depends_on_the_number_of_steps_is_refused(write):
    board = read_leaderboard(write(overrides={"lr_scheduler_type": "linear"}))
    with pytest.raises(ConfigError, match="lr_scheduler_type='linear'"):
        board.config("two draws", 0)


def test_options_of_an_entry_override_those_of_all(write):
    board = read_leaderboard(write(overrides={"loss.num_draws": 3, "beta": 0.1}))
    assert board.config("two draws", 5).training.num_draws == 3
    training = board.config("four draws", 5).describe()["training"]
    assert (training["beta"], training["seed"], training["save_strategy"]) == (0.1, 5, "no")
    assert board.config("four draws", 5).training.num_draws == 4


# ---- running --------------------------------------------------------------------------------------------------------


def test_a_board_runs_records_failures_resumes_and_reports(write, monkeypatch):
    monkeypatch.setattr(ImprovedDiffuGRPOTrainer, "_compute_loss", breaking(ImprovedDiffuGRPOTrainer._compute_loss))
    entries = {"two draws": {}, "broken": {"learning_rate": BROKEN}, "four draws": {"loss.num_draws": 4}}
    board = read_leaderboard(write(entries=entries))
    leaderboard.run_board(board, board.names, board.seeds, silent)
    cells = finished(board)
    assert [len(cells[name]) for name in board.names] == [1, 1, 1, 1]

    run = cells["two draws"][0]
    assert run["failure"] is None and run["chosen"][SECONDS] == 0  # no step fits into a microsecond
    assert run["steps"][FORWARDS] >= 1 and run["steps"][SECONDS] == 0
    assert run["candidates"][0]["step"] == 0 and len(run["candidates"]) >= 2
    assert all(candidate["forwards"] <= board.forwards for candidate in run["candidates"])
    assert run["tests"]["0"] == cells["start"][0]["tests"]["0"]  # the same weights, seed and noise
    assert len(run["tests"]["0"]["sampled"]["strict"]) == 24 == len(run["clusters"].split())

    failed = cells["broken"][0]
    assert "step 0" in failed["failure"] and "no digits" in failed["failure"]
    assert failed["chosen"] == {FORWARDS: 0, SECONDS: 0} and "0" in failed["tests"]

    def never(*arguments):
        raise AssertionError("a finished cell was run again")

    monkeypatch.setattr(leaderboard, "run_cell", never)
    leaderboard.run_board(board, board.names, board.seeds, silent)

    found = rows(board, cells)
    write_results(board, cells, found)
    assert (board.path("two draws", 0).parents[1] / "leaderboard.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((board.path("two draws", 0).parents[1] / "results.json").read_text())
    assert len(results["rows"]) == 8 and any("no digits" in note for note in results["notes"])
    table = next(row for row in found if row.entry == "broken")
    assert table.cells()[0] == "broken (1 of 1 failed)"


def test_the_best_on_validation_is_what_is_tested_and_once(write, monkeypatch):
    board = read_leaderboard(write(forwards=500, validate_every=0.25, entries={"two draws": {}}))
    seen, tested = [], []

    class Fake:
        def __init__(self, problems):
            self.problems = problems

        def run(self, policy, temperature):
            seen.append(fingerprint(policy))
            right = [1, 5, 2, 0, 0, 0][len(seen) - 1]  # the second is best
            return Evaluation([k < right for k in range(8)], [True] * 8, list("abcdefgh"), [""] * 8, 1.0, 1.0)

        def both(self, policy):
            tested.append(fingerprint(policy))
            outcome = Evaluation([True, False], [True, True], ["a", "a"], ["", ""], 1.0, 1.0)
            return {"sampled": outcome, "greedy": outcome}

    monkeypatch.setattr(leaderboard, "build_evaluator", lambda config, task, problems: Fake(problems))
    monkeypatch.setattr(leaderboard, "compute_clock", lambda device: lambda: 0.0)  # time never runs out ...
    monkeypatch.setattr(leaderboard.Meter, "exhausted", property(lambda meter: meter.ahead > 500 or meter.budget < 1))
    record = leaderboard.run_cell(board, "two draws", board.config("two draws", 0), silent)
    assert len(seen) >= 3 and len(set(seen)) == len(seen)
    assert tested == [seen[1]]  # ... so both budgets chose the same, and share one test
    step = record["candidates"][1]["step"]
    assert record["chosen"] == {FORWARDS: step, SECONDS: step}
    assert record["tests"][str(step)]["sampled"] == {"strict": "10", "lenient": "11"} and record["clusters"] == "0 0"


def fingerprint(policy):
    """A number that changes with the weights."""
    return sum(weight.double().abs().sum().item() for weight in policy.model.parameters())


def test_a_mistake_is_no_result(write, monkeypatch):
    board = read_leaderboard(write())

    def mistaken(*arguments, **keywords):
        raise AttributeError("a mistake")

    monkeypatch.setattr(leaderboard.Race, "on_step_end", mistaken)
    with pytest.raises(AttributeError):
        leaderboard.run_board(board, ["two draws"], [0], silent)
    assert not board.path("two draws", 0).exists()


def test_validating_more_often_does_not_change_the_path(write, monkeypatch):
    ends = []
    original = leaderboard.Race.on_step_end

    def watched(self, *arguments, **keywords):
        original(self, *arguments, **keywords)
        ends.append(sum(weight.double().abs().sum().item() for weight in self.weights.parameters()))

    monkeypatch.setattr(leaderboard.Race, "on_step_end", watched)
    board = read_leaderboard(write(forwards=400))
    for one in (replace(board, validate_every=1.0), replace(board, validate_every=0.2)):
        leaderboard.run_cell(one, "two draws", one.config("two draws", 0), silent)
    half = len(ends) // 2
    assert half >= 2 and ends[:half] == ends[half:]


# ---- sharing --------------------------------------------------------------------------------------------------------


def fake_cell(log):
    def run(board, name, config, say):
        with open(log, "a") as lines:
            lines.write(f"{name} {config.training.seed}\n")
        time.sleep(0.05)
        return {"entry": name, "seed": config.training.seed, **board.identity(name, config)}

    return run


def test_two_workers_share_the_cells(write, tmp_path, monkeypatch):
    board = read_leaderboard(write(seeds=[0, 1]))
    log = tmp_path / "log"
    monkeypatch.setattr(leaderboard, "run_cell", fake_cell(log))
    arguments = (board, board.names, board.seeds, silent)
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=leaderboard.run_board, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert sorted(log.read_text().splitlines()) == sorted(f"{name} {s}" for name in board.names for s in (0, 1))


def test_a_cell_of_another_process_is_left_alone_until_that_process_dies(tmp_path):
    path = tmp_path / "entry" / "seed0.json"
    fork = multiprocessing.get_context("fork")
    held = fork.Event()

    def hold():
        with claimed(path):
            held.set()
            time.sleep(60)

    worker = fork.Process(target=hold)
    worker.start()
    assert held.wait(10)
    with claimed(path) as mine:
        assert not mine
    assert path.with_suffix(".lock").read_text() == f"{worker.pid}\n"
    worker.kill()
    worker.join()
    with claimed(path) as mine:
        assert mine and path.with_suffix(".lock").read_text() == f"{os.getpid()}\n"


def test_a_cell_of_other_settings_is_refused_by_name(write, tmp_path, monkeypatch):
    monkeypatch.setattr(leaderboard, "run_cell", fake_cell(tmp_path / "log"))
    board = read_leaderboard(write())
    leaderboard.run_board(board, board.names, [0], silent)
    changed = read_leaderboard(write(entries={"two draws": {}, "four draws": {"loss.num_draws": 5}}))
    with pytest.raises(ConfigError, match=r"four_draws/seed0.json.*num_draws was 4 and is 5.*delete it"):
        leaderboard.run_board(changed, ["start", "four draws"], [0], silent)
    longer = read_leaderboard(write(forwards=201))
    with pytest.raises(ConfigError, match=r"two_draws/seed0.json.*forwards was 200 and is 201"):
        finished(longer)


# ---- statistics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees, quantile", [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622)])
def test_students_quantile_is_the_tabulated_one(degrees, quantile):
    assert student95(degrees) == pytest.approx(quantile, abs=1e-4)


def test_an_interval_over_seeds_and_problems_adds_half_widths_in_squares():
    found = with_seeds(Interval(0.5, 0.4, 0.7), [0.4, 0.5, 0.6])
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert found.low == pytest.approx(0.5 - math.hypot(half, 0.1), abs=1e-6)
    assert found.high == pytest.approx(0.5 + math.hypot(half, 0.2), abs=1e-6)
    assert with_seeds(Interval(0.5, 0.4, 0.6), [0.5]).low == -math.inf


def record(entry, seed, strict, failure=None):
    """A finished cell whose every measure has the outcomes ``strict``, on problems of one cluster each."""
    outcome = {mode: {"strict": strict, "lenient": strict} for mode in ("sampled", "greedy")}
    return {
        "entry": entry,
        "seed": seed,
        "steps": {FORWARDS: 10 + seed, SECONDS: 20},
        "candidates": [
            {"step": 0, "forwards": 0, "seconds": 0.0, "validation": 0.25, "due": [FORWARDS, SECONDS]},
            {"step": 4, "forwards": 40 + seed, "seconds": 1.0, "validation": 0.5 + seed / 4, "due": [FORWARDS]},
            {"step": 5, "forwards": 50, "seconds": 1.0, "validation": 0.9, "due": [SECONDS]},
        ],
        "chosen": {FORWARDS: 4, SECONDS: 4},
        "tests": {"4": outcome},
        "clusters": " ".join(map(str, range(len(strict)))),
        "environment": {"device": "cpu"},
        "failure": failure,
    }


@pytest.fixture
def board(tmp_path):
    return Leaderboard("base.yaml", str(tmp_path), [0, 1], 100, 10.0, {"first": {}, "second": {}})


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


def test_the_table_says_tie_where_the_interval_contains_0_and_only_there(board):
    cells = {
        "start": {seed: record("start", seed, "0" * 400) for seed in (0, 1)},
        "first": {seed: record("first", seed, "10" * 200) for seed in (0, 1)},
        "second": {seed: record("second", seed, "1" * 400) for seed in (0, 1)},
    }
    cells["second"][0] = record("second", 0, "01" * 200)  # as many right, but others
    cells["second"][1] = record("second", 1, "10" * 200)
    console = Console(width=120, record=True, quiet=False, file=open(os.devnull, "w"))  # noqa: SIM115
    for table in tables(board, rows(board, cells)):
        console.print(table)
    lines = console.export_text().splitlines()
    assert all("-50.0 [" in line and "tie" not in line for line in lines if line.strip().startswith("start"))
    assert all("+0.0 [" in line and "tie" in line for line in lines if line.strip().startswith("second"))
    assert sum("tie" in line for line in lines) == 2


def test_a_curve_is_the_mean_over_seeds_at_the_marks_of_the_forwards_budget():
    records = {seed: record("first", seed, "1") for seed in (0, 1)}
    assert curve(records) == [(0.0, 0.25), (40.5, 0.625)]


def test_entries_tested_on_different_problems_are_not_compared(board):
    cells = {"start": {}, "first": {0: record("first", 0, "11")}, "second": {0: record("second", 0, "111")}}
    with pytest.raises(ConfigError, match="different problems"):
        rows(board, cells)


def test_one_seed_has_no_interval(board):
    row = Row("x", FORWARDS, 1, 0, 1.0, 1.0, {}, {}, Interval(0.1, -math.inf, math.inf))
    assert row.gain() == "+10.0, tie (one seed)"
    assert leaderboard_report.deviation([0.3]) == 0.0


def test_copied_weights_come_back_and_frozen_ones_are_left_out():
    frozen, trained = nn.Linear(2, 2), nn.Linear(2, 2)
    module = nn.Sequential(frozen.requires_grad_(False), trained)
    kept = trained_weights(module)
    assert set(kept) == {"1.weight", "1.bias"}
    before = kept["1.weight"].clone()
    with torch.no_grad():
        trained.weight.zero_()
    assert torch.equal(kept["1.weight"], before)
    restore_weights(module, kept)
    assert torch.equal(trained.weight, before)
