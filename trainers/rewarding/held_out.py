"""The user's rewards on held-out completions, and once on the reference texts before any work."""

import asyncio
import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerState

from trainers.rewarding.arguments import Reward, reads
from trainers.rewarding.guard import GuardedReward, Values, guard, ignore
from trainers.settings.options import ConfigError

Columns = Mapping[str, Sequence[Any]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RewardJudge:
    """Values of rewards for completions that were written outside of training.

    Args:
        rewards: by name; functions, not models.
        seconds: that one call may take.
    """

    rewards: Mapping[str, Reward]
    seconds: float

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], ids: Sequence[Sequence[int]], columns: Columns
    ) -> dict[str, Values]:
        """The values of every reward, one a completion; None where it does not apply, or failed.

        Args:
            prompts: as the model sees them.
            completions, ids: texts, and their tokens.
            columns: of the data.
        """
        found: dict[str, Values] = {}
        for name, reward in self.rewards.items():
            values, guarded = self.call(reward, prompts, completions, ids, columns)
            faults = guarded.faults
            found[name] = [None if i in faults else value for i, value in enumerate(values)]
            if faults:
                logger.warning(
                    "reward %r failed for %d of %d held-out completions, which are left out: %s",
                    name,
                    len(faults),
                    len(completions),
                    next(iter(faults.values())).message,
                )
        return found

    def call(
        self,
        reward: Reward,
        prompts: Sequence[str],
        completions: Sequence[str],
        ids: Sequence[Sequence[int]],
        columns: Columns,
    ) -> tuple[Values, GuardedReward]:
        """One reward's values, and its guard, which knows what failed; it gets what TRL gives."""
        guarded = guard(reward, self.seconds)
        values = guarded(
            prompts=list(prompts),
            completions=list(completions),
            completion_ids=list(ids),
            trainer_state=TrainerState(),
            log_extra=ignore,
            log_metric=ignore,
            **{name: list(column) for name, column in columns.items() if name not in ("prompt", "completion")},
        )
        return (asyncio.run(_awaited(values)) if inspect.isawaitable(values) else values), guarded


async def _awaited(values: Any) -> Any:
    return await values


def try_once(judge: RewardJudge, prompts: Sequence[str], columns: Columns) -> None:
    """Raise ConfigError for a reward that fails on reference completions, as it would in every step of a run.

    One that reads tokens is not tried, as there is no tokenizer yet.

    Args:
        judge: the rewards.
        prompts: of some rows, as texts.
        columns: of these rows, completion among them.
    """
    completions = list(columns["completion"])
    for name, reward in judge.rewards.items():
        if "completion_ids" in reads(reward):
            continue
        _, guarded = judge.call(reward, prompts, completions, [[]] * len(completions), columns)
        for fault in (guarded.repeated, *guarded.faults.values()):
            if fault is not None:
                raise ConfigError(f"task.reward: {name} {fault.message}; it was called with {completions!r}")
