"""What a run does when its machine or its numbers fail; docs/faults.md is the table."""

from trainers.faults.finite_steps import FiniteSteps
from trainers.faults.stopping import StopsOnSignals
from trainers.faults.whole_saves import WholeSaves


class FaultTolerant(StopsOnSignals, FiniteSteps, WholeSaves):
    """Mixin in front of a transformers trainer: signals, numbers that are not finite, kills and full disks."""
