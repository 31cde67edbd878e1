"""How failures of rewards are reported: counted in the run's `rewards.json`, and warned of once a kind."""

import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm.contrib.logging import logging_redirect_tqdm

from trainers.rewarding.guard import Fault, GuardedReward, shown
from trainers.rewarding.log import Failures, RewardLog

STALLED = 3  # rollouts in a row without a single value, after which a reward is said to teach nothing

logger = logging.getLogger(__name__)


class FailureReports:
    """Reports the failures of all processes on the main one.

    Args:
        log: where they are counted.
        accelerator: the processes.
        step: optimiser steps made so far.
    """

    def __init__(self, log: RewardLog, accelerator: Accelerator, step: Callable[[], int]):
        self.log, self.accelerator, self.step = log, accelerator, step
        self._stalled: dict[str, int] = defaultdict(int)
        self._warned: set[tuple[str, str]] = set()

    def count(self, guarded: list[tuple[str, GuardedReward]], completions: list[Any]) -> None:
        """Bring the failures of each reward's last call into the log, and warn of each kind once; a collective."""
        found = [entry for name, reward in guarded for entry in self._failures_of(name, reward, completions)]
        counts = self.accelerator.gather(torch.tensor([len(found)], device=self.accelerator.device))
        if not bool(cast(torch.Tensor, counts).any()):
            return
        found = gather_object(found)
        if not self.accelerator.is_main_process:
            return
        for entry in found:
            self._warn_once(entry, len(completions))
        self.log.add(found)

    def note_stall(self, name: str, nothing: bool) -> None:
        """One rollout of training more, in which a reward had values or nothing at all."""
        self._stalled[name] = self._stalled[name] + 1 if nothing else 0
        if self._stalled[name] == STALLED:
            self._warn(
                "warning: step %d: reward %r failed for every completion of the last %d rollouts: nothing is learned "
                "from it (%s says how it failed)",
                self.step(),
                name,
                STALLED,
                self.log.path,
            )

    def _failures_of(self, name: str, reward: GuardedReward, completions: list[Any]) -> list[Failures]:
        """The failures of the last call, by kind."""
        by_kind: dict[str, Failures] = {}

        def note(fault: Fault, completion: Any, count: int) -> None:
            entry = by_kind.setdefault(fault.kind, Failures(name, fault.kind, calls=1, step=self.step()))
            entry.completions += count
            entry.message, entry.completion = fault.message, shown(completion)

        if reward.repeated is not None:
            note(reward.repeated, completions[0], 0)
        for row, fault in reward.faults.items():
            note(fault, completions[row], 1)
        return list(by_kind.values())

    def _warn_once(self, entry: Failures, completions: int) -> None:
        if (entry.reward, entry.kind) in self._warned:
            return
        self._warned.add((entry.reward, entry.kind))
        self._warn(
            "warning: step %d: reward %r %s; %d of %d completions have no value by it (the last: %s); such "
            "failures are counted in %s, and the next of this kind is not warned of",
            entry.step,
            entry.reward,
            entry.message,
            entry.completions,
            completions,
            entry.completion,
            self.log.path,
        )

    def _warn(self, message: str, *values: Any) -> None:
        if self.accelerator.is_main_process:
            with logging_redirect_tqdm():  # above the progress bar
                logger.warning(message, *values)
