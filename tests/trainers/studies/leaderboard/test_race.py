"""A race ends when both budgets are spent, and keeps the weights of the best validation."""

from types import SimpleNamespace
from typing import Any

import torch
from boards import silent
from torch import nn
from transformers import TrainerControl, TrainerState

from trainers.studies.leaderboard.budgets import FORWARDS, SECONDS, Meter
from trainers.studies.leaderboard.race import Race, restore_weights, trained_weights


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
