"""Boards on the micro model, cells without training, and records made by hand."""

import time

from trainers.studies.leaderboard.budgets import FORWARDS, SECONDS

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


def silent(line):
    """Takes a line of progress and says nothing."""


def digits(completions, **kwargs):
    """Something that random weights earn now and then."""
    return [sum(c.isdigit() for c in text) / 20 for text in completions]


def fake_cell(log):
    def run(board, name, config, say):
        with open(log, "a") as lines:
            lines.write(f"{name} {config.training.seed}\n")
        time.sleep(0.05)
        return {"entry": name, "seed": config.training.seed, **board.identity(name, config)}

    return run


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
