"""Completions drawn from another law than the policy's own, as an approximate cache draws them: how far it is from the
policy's, and the weights that correct for it."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from core.scoring import Likelihood
from trainers.grpo.metrics import Meter
from trainers.grpo.scoring import Scorer
from trainers.grpo.states import PickedStates, StoredStates

CACHE_KL = "rollout/cache_kl"  # nats a token
CACHE_TRUNCATED = "rollout/cache_truncated"  # share of tokens whose weight was cut


def truncated_weights(
    logps: Float[Tensor, "B L"], commit_logps: Float[Tensor, "B L"], scored: Bool[Tensor, "B L"], cap: float
) -> Float[Tensor, "B L"]:
    """Truncated importance weights min(p / q, cap) of single tokens (Ionides 2008; where rollout engine and trainer
    differ, Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training").

    Args:
        logps: log p of each token under the policy, in the state in which it was committed, (B, L).
        commit_logps: log q with which the rollout drew it, (B, L).
        scored: where both are known, (B, L); elsewhere the weight is 1.
        cap: upper limit of a weight.
    """
    weights = (logps - commit_logps).exp().clamp(max=cap)
    return torch.where(scored, weights, 1.0)


def rollout_divergence(
    logps: Float[Tensor, "B L"], commit_logps: Float[Tensor, "B L"], scored: Bool[Tensor, "B L"]
) -> float:
    """KL(q || p) of a token's distribution, nats, estimated from tokens that q drew: mean of r - 1 - log r, r = p / q,
    which is unbiased and never negative (Schulman 2020, "Approximating KL divergence", k3). NaN without tokens."""
    log_ratio = (logps - commit_logps)[scored]
    return (log_ratio.exp() - 1 - log_ratio).mean().item()


class TokenWeights:
    """How much each token counts in the loss: for the tokens that it stands for and, where rollouts are off-policy,
    for what the policy itself says of it.

    Args:
        likelihood: says how many tokens each stands for.
        scorer: asks the policy.
        meter: is told how far the rollouts' law is from the policy's.
        cap: upper limit of an importance weight; None: rollouts are the policy's own, and there are no such weights.
    """

    def __init__(self, likelihood: Likelihood, scorer: Scorer, meter: Meter, cap: float | None):
        self.likelihood, self.scorer, self.meter, self.cap = likelihood, scorer, meter, cap

    def of(self, states: PickedStates, completion_mask: Tensor) -> Float[Tensor, "B C"]:
        """The weights of a micro-batch's tokens, given TRL's mask of them, (B, C)."""
        weight = self.likelihood.token_weight(states.draws)[:, : completion_mask.size(1)]
        return weight if self.cap is None else weight * self._importance(states, completion_mask.bool())

    def old_logps(
        self, model: nn.Module, batch: dict[str, Any], states: StoredStates, size: int
    ) -> Float[Tensor, "B I 2 C"]:
        """What the policy itself says of the rollout just made, where TRL does not ask; in forwards of ``size``
        rows."""
        with torch.no_grad():
            logps = self.scorer.of_rollout(model, (batch["prompt_ids"], batch["prompt_mask"]), states, size)
        return logps[..., : batch["completion_ids"].size(1)]

    def _importance(self, states: PickedStates, text: Bool[Tensor, "B C"]) -> Float[Tensor, "B C"]:
        """What turns tokens of an approximate rollout into those of the policy that made it; says so to the meter."""
        old = states.old_logps
        assert old is not None and self.cap is not None
        commits, scored = states.commit_logps[:, : old.size(1)], states.draws.scored.any(dim=1)[:, : old.size(1)]
        self._log_divergence(old, commits, scored & text, self.cap)
        return truncated_weights(old, commits, scored, self.cap)

    def _log_divergence(
        self, old: Float[Tensor, "B C"], commits: Float[Tensor, "B C"], scored: Bool[Tensor, "B C"], cap: float
    ) -> None:
        cut = (old - commits)[scored] > math.log(cap)
        self.meter.add(CACHE_TRUNCATED, self.meter.mean(cut.float()))
        divergence = rollout_divergence(old, commits, scored)
        self.meter.add(CACHE_KL, self.meter.mean(old.new_tensor([divergence])))
