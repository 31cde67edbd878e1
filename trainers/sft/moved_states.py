"""Further losses at states that the model itself moved: its own wrong tokens, and ReflexFlow in closed form.

R is the number of positions of such states that the model predicted, V the size of the vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.alpha_schedule import AlphaSchedule
from core.flow.reflexflow import ReflexFlow, masked_anti_drift, masked_frequency_compensation, visible_anti_drift
from core.scheduled_sampling import RollOut
from trainers.exposure import SCHEDULED

Found = tuple[Tensor | float, dict[str, float]]  # a loss per canvas token, and metrics


@dataclass(frozen=True)
class Predictions:
    """What the model says at the states of a rollout.

    Attributes:
        logps: log-probabilities at the positions ``where``, in row-major order, (R, V).
        where: hidden tokens, and visible ones that are wrong, (B, M, L).
        rollout: the states.
        ids: the data, (B, L).
    """

    logps: Float[Tensor, "R V"]
    where: Bool[Tensor, "B M L"]
    rollout: RollOut
    ids: Int[Tensor, "B L"]

    def at(self, some: Bool[Tensor, "B M L"]) -> Float[Tensor, "r V"]:
        """Log-probabilities at some of the positions."""
        return self.logps[some[self.where]]

    def targets(self, some: Bool[Tensor, "B M L"]) -> Int[Tensor, " r"]:
        """The data there."""
        return self.ids.unsqueeze(1).expand_as(some)[some]


def visible_loss(predicted: Predictions, weight: float) -> Found:
    """Cross-entropy of the data at visible tokens that the model got wrong, per canvas token."""
    if weight == 0:
        return 0.0, {}
    wrong = predicted.rollout.wrong
    costs = -predicted.at(wrong).gather(1, predicted.targets(wrong).unsqueeze(1))
    metrics = {SCHEDULED + "visible_cross_entropy": costs.detach().mean().item()} if len(costs) else {}
    return weight * costs.sum() / predicted.where.numel(), metrics


class ReflexFlowLoss:
    """ReflexFlow's two losses at the states that were moved, in the closed forms of masked diffusion.

    Args:
        weights: of both losses; None: there are none.
        schedule: the masking's.
    """

    def __init__(self, weights: ReflexFlow | None, schedule: AlphaSchedule):
        self.weights, self.schedule = weights, schedule

    def __call__(
        self,
        predicted: Predictions,
        embeddings: Callable[[], Float[Tensor, "V d"]],
        clean_probs: Callable[[Bool[Tensor, "B M L"]], Float[Tensor, "r V"]],
    ) -> Found:
        """The mean over all states of a state's own loss, 0 where it was not moved: a batch's loss is its rows' mean.

        Args:
            predicted: what the model says there.
            embeddings: of the tokens.
            clean_probs: the posterior at some positions of the perfectly noised states, without gradients.
        """
        rollout = predicted.rollout
        moved = rollout.offset > 0  # (B, M)
        hidden, wrong = rollout.draws.scored & moved.unsqueeze(2), rollout.wrong
        if self.weights is None or not (bool(moved.any()) and bool((hidden | wrong).any())):
            return 0.0, {}
        probs = predicted.at(hidden).exp()
        drift = self._drift(predicted, probs, hidden)  # (B, M)
        clean = clean_probs(hidden)
        compensation = self._compensation(predicted, probs, hidden, embeddings(), clean)
        metrics = {
            SCHEDULED + "anti_drift": drift[moved].detach().mean().item(),
            SCHEDULED + "frequency_compensation": compensation.detach().mean().item(),
        }
        total = self.weights.beta1 * drift.sum() + self.weights.beta2 * compensation.sum()
        return total / moved.numel(), metrics

    def _drift(
        self, predicted: Predictions, probs: Float[Tensor, "r V"], hidden: Bool[Tensor, "B M L"]
    ) -> Float[Tensor, "B M"]:
        """Anti-drift rectification: the mean over a state's trained tokens."""
        wrong, shown = predicted.rollout.wrong, predicted.rollout.draws.shown
        assert shown is not None
        drift = predicted.logps.new_zeros(hidden.shape)
        drift = drift.masked_scatter(hidden, masked_anti_drift(probs, predicted.targets(hidden)))
        at_wrong = visible_anti_drift(predicted.at(wrong).exp(), predicted.targets(wrong), shown[wrong])
        drift = drift.masked_scatter(wrong, at_wrong).sum(dim=2)
        return drift / (hidden | wrong).sum(dim=2).clamp(min=1)

    def _compensation(
        self,
        predicted: Predictions,
        probs: Float[Tensor, "r V"],
        hidden: Bool[Tensor, "B M L"],
        embeddings: Float[Tensor, "V d"],
        clean: Float[Tensor, "r V"],
    ) -> Float[Tensor, " N"]:
        """Frequency compensation of each of the N states that were moved."""
        draws, moved = predicted.rollout.draws, predicted.rollout.offset > 0
        assert self.weights is not None and draws.timestep is not None
        sigma = self.schedule.mask_prob(draws.timestep[moved]).float()
        # A state without a wrong token is its own clean state: without this, rounding or dropout would pass for bias.
        biased = predicted.rollout.wrong.any(dim=2, keepdim=True).expand_as(hidden)[hidden].unsqueeze(1)
        return masked_frequency_compensation(
            probs,
            torch.where(biased, clean, probs.detach()),
            predicted.targets(hidden),
            draws.scored[moved],
            embeddings,
            sigma,
            self.weights.alpha,
        )
