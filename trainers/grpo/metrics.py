"""What a GRPO run logs beside TRL's own metrics: the bound, the ratios, the diagnostics, and where the time goes."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from core.scoring import LikelihoodEstimate, total_weight
from core.scoring.share import Share
from core.trajectory import Trajectory
from trainers.exposure import bounds_apart
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
from trainers.grpo.position import Cadence, Position
from trainers.grpo.states import PickedStates

PARTS = ("rollout", "scoring", "backward")  # of an update's time; the rest is what TRL's step_time has beyond them
WALKS = "scheduled_sampling"  # a fourth part, where it is switched on


class Meter:
    """Is told what happens and writes numbers of it where TRL's `log` finds them.

    Args:
        metrics: mode -> name -> values since the last row of the log; TRL's own.
        position: where the run stands.
        cadence: how it goes on from there.
        share: gathers the numbers of all processes.
        sequences: of an update, on all processes.
        walks: whether states are of the model's own making, which takes a part of the time.

    Attributes:
        evaluations: of one sequence by the model, in training's rollouts and scoring, on this process.
        tokens: completion tokens of training's last rollout here.
    """

    def __init__(
        self,
        metrics: Mapping[str, dict[str, list[float]]],
        position: Callable[[], Position],
        cadence: Cadence,
        share: Share,
        sequences: int,
        walks: bool,
    ):
        self.metrics, self.position, self.cadence, self.share = metrics, position, cadence, share
        self.sequences, self.parts = sequences, (*PARTS, WALKS) if walks else PARTS
        self.evaluations = self.tokens = 0
        self._seconds: dict[str, float] = defaultdict(float)
        self._loss_done = 0.0
        self._replays_exactly = False

    def add(self, name: str, value: float) -> None:
        """One value of a metric, in training's or the evaluation's own."""
        self.metrics[self.position().mode][name].append(value)

    def mean(self, values: Tensor) -> float:
        """Of all processes' means."""
        return self.share.gather(values.mean().unsqueeze(0)).mean().item()

    # ---- what happened -------------------------------------------------------------------------------------------

    def rolled_out(self, trajectory: Trajectory, seconds: float) -> None:
        """A rollout was made: its speed and cost."""
        self._seconds["rollout"] += seconds
        tokens = int(trajectory.lengths.sum())
        if self.position().training:
            self.tokens = tokens
            self.evaluations += int(trajectory.forwards.sum())
        self.add("rollout/tokens_per_second", tokens / seconds)
        self.add("rollout/forwards_per_completion", self.mean(trajectory.forwards.float()))

    def walked(self, metrics: dict[str, float], seconds: float) -> None:
        """The model walked to states of its own making. Processes may differ in what they have: the main one's are
        shown."""
        self._seconds[WALKS] += seconds
        for name, value in metrics.items():
            self.add(name, value)

    def stored(self, replays_exactly: bool) -> None:
        """States of a rollout were stored; whether they are the sampler's own."""
        self._replays_exactly = replays_exactly

    def evaluated(self, sequences: int) -> None:
        """The model, or its reference, was run on so many."""
        if self.position().training:
            self.evaluations += sequences

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """What lasts as long as this is scoring."""
        started = time.perf_counter()
        yield
        self._seconds["scoring"] += time.perf_counter() - started

    def loss_done(self) -> None:
        """The loss is there: what follows it is the backward."""
        self._loss_done = time.perf_counter()

    def micro_step_done(self, accumulated: int, optimizer: Optimizer | None) -> None:
        """A micro-step of training is over; after the last of an update its times are logged.

        Args:
            accumulated: micro-steps of this update.
            optimizer: whose moments are looked at then; None: no row of the log follows.
        """
        self._seconds["backward"] += time.perf_counter() - self._loss_done
        if self.position().index % accumulated != 0:
            return
        for part in self.parts:
            self.add(f"time/{part}", self._seconds[part])
        trained = self.tokens * accumulated / self.cadence.micro_batches
        self.add("loss/tokens_per_second", trained / (self._seconds["scoring"] + self._seconds["backward"]))
        self._seconds.clear()
        if optimizer is not None:
            self._log_gradient(optimizer)

    # ---- what the numbers say ------------------------------------------------------------------------------------

    def scored(self, estimate: LikelihoodEstimate, logps: Float[Tensor, "B C"], states: PickedStates) -> None:
        """The bound with its error, the spread of the ratios that go into the loss, and what the rollout's own
        log-probs were."""
        self._log_bound(estimate, states)
        scored = (total_weight(states.draws) > 0) & states.text
        if states.old_logps is not None:
            weight = (estimate.token_weight * scored)[:, : logps.size(1)]
            self._log_ratio(logps.detach() - states.old_logps, weight)
        if self.cadence.is_on_policy(self.position()):
            mean_logps = -estimate.token_bound.detach() / total_weight(states.draws).clamp(min=1e-12)
            gap, _ = rollout_mismatch(mean_logps, states.commit_logps, scored)
            name = ROLLOUT_MISMATCH if self._replays_exactly else LIKELIHOOD_GAP
            self.add(name, self.mean(mean_logps.new_tensor([gap])))

    def _log_bound(self, estimate: LikelihoodEstimate, states: PickedStates) -> None:
        bound, moved = estimate.sequence_bound.detach(), states.draws.rolled_out
        if moved is None:
            moved = torch.zeros_like(bound, dtype=torch.bool)
        bound, error, moved = (self.share.gather(values) for values in (bound, estimate.standard_error, moved))
        for name, value in bounds_apart(bound, moved).items():
            self.add(name, value)
        if not bool(moved.all()):
            error = error[~moved].square().sum().sqrt() / int((~moved).sum())
            if bool(error.isfinite()):  # some estimators cannot tell their error
                self.add("nelbo_standard_error", error.item())

    def _log_ratio(self, log_ratio: Float[Tensor, "B C"], weight: Float[Tensor, "B C"]) -> None:
        log_ratio, weight = log_ratio[weight > 0], weight[weight > 0]
        self.add("ratio_log_std", self.mean(log_ratio.square().mean().sqrt().nan_to_num().unsqueeze(0)))
        self.add("ratio_log_max", self._max(log_ratio.abs()))
        share = effective_sample_size(log_ratio, weight)
        self.add(RATIO_ESS, self.mean(log_ratio.new_tensor([share])))

    def _log_gradient(self, optimizer: Optimizer) -> None:
        """How much of the gradient is signal, by Adam's moments up to the last update."""
        signal = gradient_signal(optimizer)
        if signal is not None:
            scale = noise_scale(signal, self.sequences)
            self.add(GRADIENT_SIGNAL, signal)
            if math.isfinite(scale):
                self.add(GRADIENT_NOISE_SCALE, scale)

    def _max(self, values: Tensor) -> float:
        """Of all processes; 0 where there is nothing."""
        largest = values.max() if values.numel() else values.new_zeros(())
        return self.share.gather(largest.unsqueeze(0)).max().item()
