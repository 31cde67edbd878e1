"""Completions drawn from another law than the policy's own, as an approximate cache draws them: how far it is from the
policy's, and the weights that correct for it."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

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
