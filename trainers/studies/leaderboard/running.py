"""Running the cells of a board: train within the budgets, test what they chose, write one record a cell."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from transformers import set_seed
from transformers.trainer_callback import PrinterCallback

from trainers.evaluating.evaluation import SAMPLED, Evaluation
from trainers.evaluating.statistics import numbered
from trainers.experiment import build_evaluator, build_trainer, load_experiment_policy, load_task
from trainers.grpo.trainer import ImprovedDiffuGRPOTrainer
from trainers.saving.environment import environment
from trainers.settings.config import ExperimentConfig
from trainers.settings.options import ConfigError
from trainers.studies.leaderboard.board import START, Leaderboard
from trainers.studies.leaderboard.budgets import BUDGETS, FORWARDS, SECONDS, Meter, compute_clock
from trainers.studies.leaderboard.cells import claimed, read_cell, verdict_digits, write_json
from trainers.studies.leaderboard.race import Race, Say, restore_weights

Outcome = dict[str, Evaluation]  # mode -> what came out of the test split
SECONDS_SLACK = 1.25  # the next step may take so much longer than the last one and still count


def run_board(board: Leaderboard, names: Sequence[str], seeds: Sequence[int], say: Say) -> None:
    """Run the cells that are neither finished nor another process's, one seed of all entries after the other.

    Raises:
        ConfigError: a cell cannot be set up; the others were run.
    """
    configs = {(name, seed): board.config(name, seed) for seed in seeds for name in names}
    for (name, seed), config in configs.items():  # a file of other settings is refused before any work
        read_cell(board, name, seed, config)
    refused: list[ConfigError] = []
    for (name, seed), config in configs.items():
        path = board.path(name, seed)
        with claimed(path) as mine:
            if not mine or read_cell(board, name, seed, config) is not None:
                continue
            say(f"{name}, seed {seed}")
            try:
                write_json(path, run_cell(board, name, config, say))
            except ConfigError as error:
                say(f"error: {error}")
                refused.append(ConfigError(f"leaderboard entry {name!r}: {error}"))
    if refused:
        raise refused[0]


def run_cell(board: Leaderboard, name: str, config: ExperimentConfig, say: Say) -> dict[str, Any]:
    """Train and test one cell.

    Args:
        board: the budgets.
        name: the entry, or "start".
        config: its experiment, seed included.
        say: takes lines of progress.

    Returns:
        The record, JSON-serialisable. A run that raised has its message under "failure"; what it had chosen by then
        is tested.

    Raises:
        ConfigError: the experiment cannot be set up.
    """
    task, splits = load_task(config.task)
    set_seed(config.training.seed)
    policy = load_experiment_policy(config, splits["train"])
    validation = build_evaluator(config, task, splits["validation"])
    test = build_evaluator(config, task, splits["test"])
    record: dict[str, Any] = {"entry": name, "seed": config.training.seed, **board.identity(name, config)}
    if name == START:
        nothing: dict[str, int] = dict.fromkeys(BUDGETS, 0)
        return record | _results({0: test.both(policy)}, steps=nothing, chosen=nothing)

    trainer = build_trainer(config, task, splits, policy)
    assert isinstance(trainer, ImprovedDiffuGRPOTrainer)  # `Leaderboard.config` saw to it
    trainer.remove_callback(PrinterCallback)
    race = _race(board, trainer, lambda: validation.run(policy, config.training.temperature), say)
    trainer.add_callback(race)
    failure = _train(trainer, say)
    return record | _results(
        _tests(race, lambda: test.both(policy)),
        steps={key: meter.steps for key, meter in race.meters.items()},
        candidates=[asdict(candidate) for candidate in race.candidates],
        chosen={key: candidate.step for key, (candidate, _) in race.best.items()},
        failure=failure,
    )


def _race(board: Leaderboard, trainer: ImprovedDiffuGRPOTrainer, validate: Callable[[], Evaluation], say: Say) -> Race:
    """The callback that spends the board's budgets on this run."""
    before = trainer.evaluations
    return Race(
        weights=trainer.accelerator.unwrap_model(trainer.model),
        evaluations=lambda: trainer.evaluations - before,
        clock=compute_clock(trainer.accelerator.device),
        validate=lambda: validate().accuracy("strict").value,
        meters={
            FORWARDS: Meter(board.forwards, board.validate_every),
            SECONDS: Meter(board.seconds, board.validate_every, SECONDS_SLACK),
        },
        say=say,
    )


def _train(trainer: ImprovedDiffuGRPOTrainer, say: Say) -> str | None:
    """Train until the race ends the run; what went wrong, in a line, or None.

    A run may diverge, and that is a result. Any other kind of error is a mistake and goes through.
    """
    try:
        trainer.train()
    except ConfigError:
        raise
    except (RuntimeError, ArithmeticError, ValueError) as error:
        failure = f"step {trainer.state.global_step}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        say(f"failed at {failure}")
        return failure
    return None


def _tests(race: Race, test: Callable[[], Outcome]) -> dict[int, Outcome]:
    """Each chosen candidate, tested once: its step -> what came out."""
    tests: dict[int, Outcome] = {}
    for candidate, weights in race.best.values():
        if candidate.step not in tests:
            restore_weights(race.weights, weights)
            tests[candidate.step] = test()
    return tests


def _results(
    tests: dict[int, Outcome],
    *,
    steps: dict[str, int],
    chosen: dict[str, int],
    candidates: Sequence[dict[str, Any]] = (),
    failure: str | None = None,
) -> dict[str, Any]:
    """What a record says beside the settings; clusters are numbers in one text, the same for every test."""
    clusters = [" ".join(map(str, numbered(outcome[SAMPLED].clusters))) for outcome in tests.values()]
    return {
        "steps": steps,
        "candidates": list(candidates),
        "chosen": chosen,
        "tests": {str(step): verdict_digits(outcome) for step, outcome in tests.items()},
        "clusters": clusters[-1] if clusters else "",
        "environment": environment(),
        "failure": failure,
    }
