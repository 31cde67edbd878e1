"""The two budgets of a run: what is spent, when to validate, when the next step would be too much.

*Forwards* are denoiser evaluations of one sequence, *seconds* the compute time of training.
"""

import math
import time
from collections.abc import Callable

import torch

FORWARDS, SECONDS = "forwards", "seconds"
BUDGETS = (FORWARDS, SECONDS)


class Meter:
    """What is spent of one budget, and when to validate.

    A step costs about what the step before it did, so the last step within a limit is known before it is passed.

    Args:
        budget: the limit, in the unit of what is spent.
        share: part of it between validations; its end is always one.
        slack: factor on the expected cost of the next step.
    """

    def __init__(self, budget: float, share: float, slack: float = 1.0):
        self.budget, self.slack = budget, slack
        self.marks = [min(1.0, k * share) * budget for k in range(1, math.ceil(1 / share - 1e-9) + 1)]
        self.spent = self.ahead = 0.0
        self.steps = 0  # finished within the budget
        self.validated = 0  # marks that are done with

    def advance(self, spent: float) -> None:
        """One more step is finished, and ``spent`` is the new total."""
        self.ahead = spent + self.slack * (spent - self.spent)
        self.spent = spent
        self.steps += self.within

    @property
    def within(self) -> bool:
        """Whether the budget covers all that was spent."""
        return self.spent <= self.budget

    @property
    def exhausted(self) -> bool:
        """Whether the next step would pass the budget."""
        return self.ahead > self.budget

    def due(self) -> bool:
        """Whether the next step would pass a mark for the first time."""
        passed = sum(self.ahead > mark * (1 + 1e-9) for mark in self.marks)
        new, self.validated = passed > self.validated, passed
        return new and self.within


def compute_clock(device: torch.device) -> Callable[[], float]:
    """Seconds of compute: CPU time of this process, or wall time where an accelerator does the work."""
    if device.type == "cpu":
        return time.process_time

    def wall() -> float:
        torch.accelerator.synchronize()  # queued work counts
        return time.perf_counter()

    return wall
