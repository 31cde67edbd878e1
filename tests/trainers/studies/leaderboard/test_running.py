"""Cells run, fail, resume and are shared; what is tested is the best on validation."""

import json
import multiprocessing
from dataclasses import replace

import pytest
from boards import fake_cell, silent

from trainers.evaluating.evaluation import Evaluation
from trainers.grpo.trainer import ImprovedDiffuGRPOTrainer
from trainers.studies.leaderboard import running
from trainers.studies.leaderboard.board import read_leaderboard
from trainers.studies.leaderboard.budgets import FORWARDS, SECONDS
from trainers.studies.leaderboard.cells import finished
from trainers.studies.leaderboard.report import write_results
from trainers.studies.leaderboard.rows import rows

BROKEN = 0.125  # learning rate of a run whose loss cannot be computed


def breaking(compute_loss):
    def compute(trainer, model, inputs):
        if trainer.args.learning_rate == BROKEN:
            raise ZeroDivisionError("no digits")
        return compute_loss(trainer, model, inputs)

    return compute


def test_a_board_runs_records_failures_resumes_and_reports(write, monkeypatch):
    monkeypatch.setattr(ImprovedDiffuGRPOTrainer, "_compute_loss", breaking(ImprovedDiffuGRPOTrainer._compute_loss))
    entries = {"two draws": {}, "broken": {"learning_rate": BROKEN}, "four draws": {"loss.num_draws": 4}}
    board = read_leaderboard(write(entries=entries))
    running.run_board(board, board.names, board.seeds, silent)
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

    monkeypatch.setattr(running, "run_cell", never)
    running.run_board(board, board.names, board.seeds, silent)

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

    monkeypatch.setattr(running, "build_evaluator", lambda config, task, problems: Fake(problems))
    monkeypatch.setattr(running, "compute_clock", lambda device: lambda: 0.0)  # time never runs out ...
    monkeypatch.setattr(running.Meter, "exhausted", property(lambda meter: meter.ahead > 500 or meter.budget < 1))
    record = running.run_cell(board, "two draws", board.config("two draws", 0), silent)
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

    monkeypatch.setattr(running.Race, "on_step_end", mistaken)
    with pytest.raises(AttributeError):
        running.run_board(board, ["two draws"], [0], silent)
    assert not board.path("two draws", 0).exists()


def test_validating_more_often_does_not_change_the_path(write, monkeypatch):
    ends = []
    original = running.Race.on_step_end

    def watched(self, *arguments, **keywords):
        original(self, *arguments, **keywords)
        ends.append(sum(weight.double().abs().sum().item() for weight in self.weights.parameters()))

    monkeypatch.setattr(running.Race, "on_step_end", watched)
    board = read_leaderboard(write(forwards=400))
    for one in (replace(board, validate_every=1.0), replace(board, validate_every=0.2)):
        running.run_cell(one, "two draws", one.config("two draws", 0), silent)
    half = len(ends) // 2
    assert half >= 2 and ends[:half] == ends[half:]


def test_two_workers_share_the_cells(write, tmp_path, monkeypatch):
    board = read_leaderboard(write(seeds=[0, 1]))
    log = tmp_path / "log"
    monkeypatch.setattr(running, "run_cell", fake_cell(log))
    arguments = (board, board.names, board.seeds, silent)
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=running.run_board, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert sorted(log.read_text().splitlines()) == sorted(f"{name} {s}" for name in board.names for s in (0, 1))
