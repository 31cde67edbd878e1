"""GRPO on rewards that may fail: what a failure does to learning, to the log, and to nothing else.

A failed value is unknown, and must pull neither way. TRL sums rewards with nansum, so an unknown one would count as 0
and push a right completion down whose verifier timed out. Here it counts as what `trainers.rewarding.neutral` puts in
its place. A None that a reward returned on purpose stays what TRL makes of it.

Metrics: rewards/<name>/failed (share of completions), accuracy/strict (of the rollouts, by the task's verifier,
whatever is rewarded) and accuracy/failed. Means count known values only, and a rollout without any logs none.
"""

import math
from collections.abc import Callable, Collection, Container
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from trl.trainer.utils import nanstd

from trainers.rewarding.arguments import as_list, check_arguments
from trainers.rewarding.failures import FailureReports
from trainers.rewarding.guard import REWARD_TIME_LIMIT, GuardedReward, GuardedSyncReward, Values, guard
from trainers.rewarding.log import STRICT, RewardLog
from trainers.rewarding.neutral import neutral
from trainers.rewarding.watch import RewardHackingCallback, RewardLogCallback
from trainers.settings.options import ConfigError, refusal, require
from trainers.tasks.verdicts import text_of

if TYPE_CHECKING:  # see `trainers.faults.behind`
    from trl.trainer.grpo_trainer import GRPOTrainer as TrainerBehind
else:
    TrainerBehind = object


def strict_accuracy(verify: Callable[[str, str], Any]) -> Callable[..., list[float]]:
    """A task's strict verdicts as a reward function."""

    def strict(completions: list[Any], answer: list[str], **kwargs: Any) -> list[float]:
        return [float(verify(text_of(c), right).strict) for c, right in zip(completions, answer, strict=True)]

    return strict


def checked_rewards(
    reward_funcs: Any, args: Any, columns: Collection[str], verify: Callable[..., Any] | None = None
) -> list[Any]:
    """One reward or several as a list.

    Args:
        reward_funcs: functions as TRL calls them, reward models, names of reward models.
        args: options.
        columns: of the data set.
        verify: see `FaultTolerantRewards`.

    Raises:
        ConfigError: one is no reward or needs what nobody hands it, or there is not one usable weight for each.
    """
    rewards = as_list(reward_funcs)
    for reward in rewards:
        check_arguments(reward, columns)
    if verify is not None and "answer" not in columns:
        raise ConfigError(f"verify: train_dataset has no column answer, only {', '.join(columns)}")
    check_weights(args, len(rewards))
    return rewards


def check_weights(args: Any, count: int) -> None:
    """Raise ConfigError unless there is one usable weight for each of ``count`` rewards."""
    weights = args.reward_weights
    if weights is None:
        return
    if len(weights) != count:
        rewards = f"the {count} of task.rewards (or reward_funcs), in its order"
        raise refusal(args, "reward_weights", f"{len(weights)} weights for {rewards}")
    require(args, "reward_weights", all(math.isfinite(weight) for weight in weights), "finite numbers")
    require(args, "reward_weights", any(weights), "one that is not 0, or there is nothing to learn from")


class FaultTolerantRewards(TrainerBehind):
    """Mixin in front of TRL's GRPO trainer: rewards behind guards, `_calculate_rewards` made neutral, and TRL's means
    of rewards put right.

    Args:
        args: options.
        reward_funcs: as `checked_rewards` returns them.
        verify: (completion, answer) -> a verdict with `strict`; the dataset then has a column answer. None: no
            accuracy is logged.
        reward_time_limit: seconds a call of a reward or of the verifier may take.
    """

    model: nn.Module

    def __init__(
        self,
        *,
        args: Any,
        reward_funcs: list[Any],
        verify: Callable[[str, str], Any] | None = None,
        reward_time_limit: float = REWARD_TIME_LIMIT,
        **kwargs: Any,
    ):
        self._strict = None if verify is None else GuardedSyncReward(strict_accuracy(verify), reward_time_limit)
        self._known_rewards: Tensor | None = None  # of the last rollout, where a failure makes TRL's own others
        self.unscored = torch.zeros(0, dtype=torch.bool)  # completions of the last rollout without any reward, (B,)
        super().__init__(
            args=args, reward_funcs=[guard(reward, reward_time_limit) for reward in reward_funcs], **kwargs
        )
        weights = args.reward_weights or [1.0] * len(reward_funcs)
        self.reward_log = RewardLog(args.output_dir, dict(zip(self.reward_func_names, weights, strict=True)))
        self.failure_reports = FailureReports(self.reward_log, self.accelerator, lambda: self.state.global_step)
        self.add_callback(RewardLogCallback(self.reward_log))
        self.add_callback(RewardHackingCallback())

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: list[Any], completions: list[Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """TRL's rewards of the global batch, (B, N), those that failed made neutral."""
        rewards = super()._calculate_rewards(inputs, prompts, completions, *args, **kwargs)
        failed = self._failed(rewards, len(completions))
        guarded: list[tuple[str, GuardedReward]]
        guarded = [(f.__name__, f) for f in self.reward_funcs if isinstance(f, GuardedReward)]
        if self._strict is not None:
            columns = {key: [row[key] for row in inputs] for key in inputs[0] if key not in ("prompt", "completion")}
            self._log_strict(self._strict(completions=completions, **columns), self._strict.faults)
            guarded.append(("accuracy", self._strict))
        self.failure_reports.count(guarded, completions)
        known = rewards.masked_fill(failed, torch.nan)
        self._known_rewards = known if bool(failed.any()) else None
        self.unscored = known.isnan().all(dim=1)
        if self.multi_objective_aggregation != "sum_then_normalize":
            return (
                known  # there TRL takes mean and deviation of each reward over its known values, and NaN as the mean
            )
        return neutral(known, failed, self.group_size)

    @property
    def group_size(self) -> int:
        """G completions of one prompt, now: evaluation may have a number of its own."""
        size = self.num_generations if self.model.training else self.num_generations_eval
        assert size is not None  # TRL takes the one of training where the other is unset
        return size

    def _failed(self, rewards: Tensor, size: int) -> Tensor:
        """Which values of the global batch are unknown, on every process alike, (B, N); logs their shares."""
        local = torch.zeros(size, len(self.reward_funcs), dtype=torch.bool, device=rewards.device)
        for i, reward in enumerate(self.reward_funcs):
            if isinstance(reward, GuardedReward):
                local[list(reward.faults), i] = True
        failed = cast(Tensor, self.accelerator.gather(local))
        for i, (name, reward) in enumerate(zip(self.reward_func_names, self.reward_funcs, strict=True)):
            if isinstance(reward, nn.Module):
                failed[:, i] = ~rewards[:, i].isfinite()
            share = failed[:, i].float().mean().item()
            self._metrics[self._mode][f"rewards/{name}/failed"].append(share)
            if self.model.training:
                self.failure_reports.note_stall(name, share == 1.0)
        return failed

    def _log_strict(self, values: Values, faults: Container[int]) -> None:
        """Share of strictly right completions in the global batch, among those that could be judged."""
        local = [math.nan if i in faults else value for i, value in enumerate(values)]
        local = torch.tensor(local, dtype=torch.float32, device=self.accelerator.device)
        judged = cast(Tensor, self.accelerator.gather(local))
        failed, metrics = judged.isnan(), self._metrics[self._mode]
        metrics["accuracy/failed"].append(failed.float().mean().item())
        if not bool(failed.all()):
            metrics[STRICT].append(judged.nanmean().item())

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's batch; what it logged of values that were put in for unknown ones is put right."""
        output = super()._generate_and_score_completions(inputs)
        if self._known_rewards is not None:
            self._log_known(self._known_rewards)
            self._known_rewards = None
        metrics = self._metrics[self._mode]
        for key in [key for key in metrics if key.startswith("reward")]:  # no number, no entry: TRL would log None
            metrics[key] = [value for value in metrics[key] if not math.isnan(value)]
            if not metrics[key]:
                del metrics[key]
        return output

    def _log_known(self, rewards: Tensor) -> None:
        """Means, deviations and the table of completions, over known values (B, N) only."""
        metrics = self._metrics[self._mode]
        for i, name in enumerate(self.reward_func_names):
            values = rewards[:, i]
            metrics[f"rewards/{name}/mean"][-1] = values.nanmean().item()
            metrics[f"rewards/{name}/std"][-1] = nanstd(values).item()
            column = self._logs["rewards"][name]
            for _ in range(min(len(values), len(column))):
                column.pop()
            column.extend(values.tolist())
