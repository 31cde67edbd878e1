"""What a GRPO run keeps of its rollouts for the report: the first groups of a few rollouts, evenly spread.

Which rollouts those are depends on their place in the run alone, and nothing random is drawn: a run is the same with
and without it, and a resumed one writes what the unbroken one would.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from typing import Any

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from core.scoring.share import Share
from core.trajectory import Trajectory
from trainers.evaluating.playback import Playback, playbacks
from trainers.grpo.position import Cadence, Position
from trainers.models.policy import Policy
from trainers.reporting.rollout_log import GROUPS, SHOWN, RolloutLog


def recorded(count: int, rollouts: int) -> set[int]:
    """The numbers of ``count`` of so many rollouts, evenly spread, the first and the last among them."""
    if count == 1:
        return {0}
    count = min(count, rollouts)
    return {round(i * (rollouts - 1) / max(1, count - 1)) for i in range(count)}


class RolloutRecorder:
    """Writes some groups of some rollouts to `rollouts.jsonl`, on the main process.

    Args:
        policy: knows the texts of tokens.
        directory: of the run.
        cadence: how rollouts follow one another.
        share: which rows of the global batch are this process's.
        count: rollouts of a run that are recorded, about.
    """

    def __init__(self, policy: Policy, directory: str, cadence: Cadence, share: Share, count: int):
        self.policy, self.cadence, self.share, self.count = policy, cadence, share, count
        self.log = RolloutLog(directory)
        self._written: list[Playback] | None = None  # of the rollout that is being scored
        self._numbers: set[int] = set()

    def begin(self, steps: int, done: int) -> None:
        """Choose the rollouts of a run of so many optimiser steps, of which some are done."""
        rollouts = math.ceil(steps * self.cadence.accumulated / self.cadence.micro_steps)
        self._numbers = recorded(self.count, rollouts)
        if self.share.rank == 0:
            self.log.begin(done)

    def rolled_out(self, trajectory: Trajectory, at: Position, group_size: int) -> None:
        """A rollout was made; a collective where it is recorded."""
        self._written = None
        if not at.training or at.index // self.cadence.micro_steps not in self._numbers:
            return
        first = self.share.rank * len(trajectory)
        own = [row for row in range(len(trajectory)) if _is_shown(first + row, group_size)]
        written = playbacks(self.policy.tokenizer, trajectory, own)
        self._written = gather_object(written) if self.share.processes > 1 else written

    def scored(self, logs: Mapping[str, Any], at: Position, group_size: int) -> None:
        """The rollout was scored.

        Args:
            logs: TRL's own: the prompts, rewards and advantages of the last global batch.
            at: where the run stands.
            group_size: completions of one prompt, G.
        """
        written, self._written = self._written, None
        if written is None or self.share.rank != 0:
            return
        shown = min(group_size, SHOWN)
        self.log.add(
            [
                {
                    "rollout": at.index // self.cadence.micro_steps,
                    "step": at.update,
                    "group": group,
                    "prompt": logs["prompt"][group * group_size],
                    "size": group_size,
                    "rewards": {name: _taken(v, group, group_size) for name, v in logs["rewards"].items()},
                    "advantages": _taken(logs["advantages"], group, group_size),
                    "completions": [asdict(one) for one in written[group * shown : (group + 1) * shown]],
                }
                for group in range(math.ceil(len(written) / shown))
            ]
        )


class RecorderCallback(TrainerCallback):
    """Starts the record of a run, or goes on with it."""

    def __init__(self, recorder: RolloutRecorder):
        self.recorder = recorder

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Every process chooses the same rollouts."""
        self.recorder.begin(state.max_steps, state.global_step)


def _is_shown(row: int, group_size: int) -> bool:
    """Whether a row of the global batch is among those that are recorded."""
    return row // group_size < GROUPS and row % group_size < SHOWN


def _taken(values: Any, group: int, group_size: int) -> list[float | None]:
    """What a group's recorded completions have of a value; None where it is no number."""
    start = group * group_size
    own = islice(values, start, start + min(group_size, SHOWN))
    return [round(value, 6) if math.isfinite(value) else None for value in own]
