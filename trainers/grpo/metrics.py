"""What a GRPO run logs beside TRL's own metrics: the bound, the ratios, the diagnostics, and where the time goes."""

import math
import time
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from core.scheduled_sampling import ScheduledSampling
from core.scoring import Likelihood, LikelihoodEstimate, total_weight
from core.trajectory import Trajectory
from trainers.exposure import bounds_apart, log_follows
from trainers.grpo.diagnostics import (
    GRADIENT_NOISE_SCALE,
    GRADIENT_SIGNAL,
    LIKELIHOOD_GAP,
    RATIO_ESS,
    ROLLOUT_MISMATCH,
    effective_sample_size,
    gradient_signal,
    noise_scale,
    rollout_mismatch,
)
from trainers.grpo.off_policy import CACHE_KL, CACHE_TRUNCATED, rollout_divergence
from trainers.grpo.resuming import ResumableGRPOTrainer

COMMITS = "commit_logps"  # log-probs with which the rollout committed its tokens; key of the inputs dictionary, (B, L)


class MeasuredGRPOTrainer(ResumableGRPOTrainer):
    """TRL's trainer with these metrics; a subclass rolls out, scores, and says what it did."""

    likelihood: Likelihood
    scheduled: ScheduledSampling

    def __init__(self, *args: Any, **kwargs: Any):
        self.evaluations = 0  # of one sequence by the model, in rollouts and scoring, on this process
        self._seconds: dict[str, float] = defaultdict(float)
        self._replays_exactly = False  # whether the loss replays single steps of an exact rollout
        super().__init__(*args, **kwargs)

    def _log_rollout(self, trajectory: Trajectory, seconds: float) -> None:
        """Speed and cost of the rollout just made."""
        metrics = self._metrics["train" if self.model.training else "eval"]
        self._seconds["rollout"] += seconds
        tokens = int(trajectory.lengths.sum())
        if self.model.training:
            self._tokens = tokens
            self.evaluations += int(trajectory.forwards.sum())
        metrics["rollout/tokens_per_second"].append(tokens / seconds)
        metrics["rollout/forwards_per_completion"].append(self._mean(trajectory.forwards.float()))

    def _log_estimate(self, estimate: LikelihoodEstimate, logps: Tensor, current: dict[str, Any]) -> None:
        """The bound with its error, the spread of the ratios that go into the loss, and what the rollout's own
        log-probs were."""
        metrics = self._metrics["train" if self.model.training else "eval"]
        bound, error = estimate.sequence_bound.detach(), estimate.standard_error
        moved, old_logps = current["draws"].rolled_out, current["old_per_token_logps"]
        if moved is None:
            moved = torch.zeros_like(bound, dtype=torch.bool)
        bound, error, moved = (self.accelerator.gather(values) for values in (bound, error, moved))
        for name, value in bounds_apart(bound, moved).items():
            metrics[name].append(value)
        if not bool(moved.all()):
            error = error[~moved].square().sum().sqrt() / int((~moved).sum())
            if bool(error.isfinite()):  # some estimators cannot tell their error
                metrics["nelbo_standard_error"].append(error.item())
        scored = (total_weight(current["draws"]) > 0) & current["completion_mask"]
        if old_logps is not None:
            width = logps.size(1)
            weight = (estimate.token_weight * scored)[:, :width]
            log_ratio = (logps.detach() - old_logps)[weight > 0]
            metrics["ratio_log_std"].append(self._mean(log_ratio.square().mean().sqrt().nan_to_num().unsqueeze(0)))
            metrics["ratio_log_max"].append(self._max(log_ratio.abs()))
            share = effective_sample_size(log_ratio, weight[weight > 0])
            metrics[RATIO_ESS].append(self._mean(log_ratio.new_tensor([share])))
        if self._weights_are_the_rollouts:
            mean_logps = -estimate.token_bound.detach() / total_weight(current["draws"]).clamp(min=1e-12)
            gap, _ = rollout_mismatch(mean_logps, current[COMMITS], scored)
            metrics[ROLLOUT_MISMATCH if self._replays_exactly else LIKELIHOOD_GAP].append(
                self._mean(mean_logps.new_tensor([gap]))
            )

    def _log_divergence(self, old_logps: Tensor, commit_logps: Tensor, scored: Tensor) -> None:
        """How far an approximate rollout's law is from the policy's."""
        metrics = self._metrics["train" if self.model.training else "eval"]
        cut = (old_logps - commit_logps)[scored] > math.log(self.args.importance_cap)
        metrics[CACHE_TRUNCATED].append(self._mean(cut.float()))
        divergence = rollout_divergence(old_logps, commit_logps, scored)
        metrics[CACHE_KL].append(self._mean(old_logps.new_tensor([divergence])))

    @property
    def _weights_are_the_rollouts(self) -> bool:
        """Whether no update has come between the rollout and now."""
        since = self._step % (self.args.steps_per_generation * self.num_iterations)
        return self.model.training and since < self.args.gradient_accumulation_steps

    def _log_gradient(self) -> None:
        """How much of the gradient is signal, by Adam's moments up to the last update."""
        signal = gradient_signal(self.optimizer)
        if signal is not None:
            sequences = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
            scale = noise_scale(signal, sequences * self.accelerator.num_processes)
            self._metrics["train"][GRADIENT_SIGNAL].append(signal)
            if math.isfinite(scale):
                self._metrics["train"][GRADIENT_NOISE_SCALE].append(scale)

    def _mean(self, values: Tensor) -> float:
        return self.accelerator.gather(values.mean().unsqueeze(0)).mean().item()

    def _max(self, values: Tensor) -> float:
        largest = values.max() if values.numel() else values.new_zeros(())
        return self.accelerator.gather(largest.unsqueeze(0)).max().item()

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """TRL's step; splits its time into rollout, scoring, backward (what follows the loss) and, by difference,
        rest."""
        loss = super().training_step(*args, **kwargs)
        self._seconds["backward"] += time.perf_counter() - self._loss_done
        if self._step % self.current_gradient_accumulation_steps == 0:
            metrics = self._metrics["train"]
            parts = ("rollout", "scoring", "backward", *(["scheduled_sampling"] if self.scheduled.active else []))
            for part in parts:
                metrics[f"time/{part}"].append(self._seconds[part])
            metrics["loss/tokens_per_second"].append(
                self._tokens
                * self.current_gradient_accumulation_steps
                / self.args.steps_per_generation
                / (self._seconds["scoring"] + self._seconds["backward"])
            )
            self._seconds.clear()
            if log_follows(self.state, 1):
                self._log_gradient()
        return loss
