"""A run that spends two budgets: it validates on the way and keeps the best weights of each.

A *candidate* is the state of the weights at a validation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainers.studies.leaderboard.budgets import FORWARDS, SECONDS, Meter

Say = Callable[[str], None]  # takes one line of progress


@dataclass(frozen=True)
class Candidate:
    """The weights at one validation: when, what had been spent, strict accuracy, and the budgets that asked for it."""

    step: int
    forwards: int
    seconds: float
    validation: float
    due: list[str]


class Race(TrainerCallback):
    """Spends two budgets, validates on the way, keeps the best weights of each budget, and ends the run.

    Args:
        weights: the module that is trained; read and copied, never written.
        evaluations: forwards so far.
        clock: seconds so far, from any origin.
        validate: strict accuracy on the validation split.
        meters: by budget.
        say: takes one line a candidate.
    """

    def __init__(
        self,
        weights: nn.Module,
        evaluations: Callable[[], int],
        clock: Callable[[], float],
        validate: Callable[[], float],
        meters: dict[str, Meter],
        say: Say,
    ):
        self.weights, self.evaluations, self.clock, self.validate = weights, evaluations, clock, validate
        self.meters, self.say = meters, say
        self.candidates: list[Candidate] = []
        self.best: dict[str, tuple[Candidate, dict[str, Tensor]]] = {}
        self._origin = 0.0  # of the clock, moved on by every validation

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Validate the weights that the run starts from, then start the clock: that validation costs no budget."""
        self._candidate(0, list(self.meters))
        self._origin = self.clock()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Charge the step to both budgets, validate where one asks for it, and stop when both are spent."""
        now = self.clock()
        self.meters[FORWARDS].advance(self.evaluations())
        self.meters[SECONDS].advance(now - self._origin)
        due = [name for name, meter in self.meters.items() if meter.due()]
        if due:
            self._candidate(state.global_step, due)
        self._origin += self.clock() - now
        control.should_training_stop = all(meter.exhausted for meter in self.meters.values())

    def _candidate(self, step: int, due: list[str]) -> None:
        """Validate; keep the weights if they are the best so far within a budget."""
        spent = {name: meter.spent for name, meter in self.meters.items()}
        candidate = Candidate(step, int(spent[FORWARDS]), spent[SECONDS], self.validate(), due)
        self.candidates.append(candidate)
        self.say(
            f"step {step}, {candidate.forwards} forwards, {candidate.seconds:.1f} s: "
            f"validation {candidate.validation:.1%}"
        )
        better = [
            name
            for name, meter in self.meters.items()
            if meter.within and (name not in self.best or candidate.validation > self.best[name][0].validation)
        ]
        if better:
            kept = candidate, trained_weights(self.weights)
            self.best |= dict.fromkeys(better, kept)


def trained_weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy on the CPU of every parameter that is trained."""
    return {
        name: weight.detach().to("cpu", copy=True)
        for name, weight in module.named_parameters()
        if weight.requires_grad
    }


def restore_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Write back what `trained_weights` copied."""
    own = dict(module.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            own[name].copy_(weight)
