"""SPG's sandwich: a lower bound for positive advantages, a mixture with an upper one for negative (Wang et al. 2025,
2510.09541).

With M fresh masks of weights w_m and l_mk = log p(token k | state m) where mask m hides k,

    lower   sum_k sum_m w_m l_mk, the bound of `core.nelbo` on fresh masks
    upper   sum_k (1/b) log sum_m w_m exp(b l_mk)
    value   lower where the advantage is positive, omega upper + (1 - omega) lower where it is negative

The upper one estimates EUBO = sum_k (1/b) log E[1(k hidden) p_k^b / mask_prob], SPG's bound without its additive
constant. By Hölder's inequality it is at least log p(completion) for b >= L, and at least the lower bound for b >= 1.
At SPG's b = 1.5 it can lie below log p (`tests/core/likelihoods/test_sandwich.py` has a case). From M draws the mean
inside the logarithm is biased downwards; tokens that no draw hid are left out. There is no ratio in SPG: the loss is A
times the value. Forwards a sequence: M, published 2 (SPG also masks by blocks of the sampler; here masks follow the
schedule).
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from core.nelbo import TrajectoryNELBOLoss
from core.scoring import Draws, LikelihoodEstimate


class Sandwich(TrajectoryNELBOLoss):
    """The lower bound as the value of each token, the mixture as its value for negative advantages.

    Args:
        max_timesteps, alpha_schedule, alpha_min, alpha_max, num_draws, ratio: see `Likelihood`.
        power: b.
        upper_share: weight of the upper bound in the mixture, SPG's omega.

    Raises:
        ValueError: b below 1, or a share outside [0, 1].
    """

    ratios = ("none", "weighted")

    def __init__(
        self,
        max_timesteps: int = 128,
        alpha_schedule: str = "cosine",
        alpha_min: float = 0.01,
        alpha_max: float = 0.99,
        num_draws: int | None = None,
        ratio: str | None = None,
        power: float = 1.5,
        upper_share: float = 0.5,
    ):
        if not 1 <= power < math.inf:
            raise ValueError(f"loss.eubo_power={power}: expected at least 1 and finite: below 1 it is no bound")
        if not 0 <= upper_share <= 1:
            raise ValueError(f"loss.eubo_share={upper_share}: expected a share in [0, 1]")
        self.power, self.upper_share = power, upper_share
        grid = (max_timesteps, alpha_schedule, alpha_min, alpha_max)
        super().__init__(*grid, "forward", num_draws, "independent", ratio=ratio)

    def combine(
        self, logps: Float[Tensor, "B M L"], entropies: Float[Tensor, "B M L"], draws: Draws
    ) -> LikelihoodEstimate:
        """The lower bound as `per_token_logps`, the mixture of both bounds as `negative_logps`, nats, (B, L) each."""
        found = super().combine(logps, entropies, draws)
        lower, upper = -found.token_bound, upper_bound(logps, draws, self.power)
        mixture = self.upper_share * upper + (1 - self.upper_share) * lower
        return replace(found, per_token_logps=lower, negative_logps=mixture)

    def token_weight(self, draws: Draws) -> Float[Tensor, "B L"]:
        """The weights are inside the values."""
        return torch.ones_like(draws.scored[:, 0], dtype=torch.float32)


def upper_bound(logps: Float[Tensor, "B M L"], draws: Draws, power: float) -> Float[Tensor, "B L"]:
    """SPG's evidence upper bound of each token, (1/b) log sum_m w_m p_mk^b; 0 where no draw scored the token."""
    terms = (power * logps + draws.weight.unsqueeze(2).log()).masked_fill(~draws.scored, float("-inf"))
    return torch.where(draws.scored.any(dim=1), terms.logsumexp(dim=1) / power, 0.0)
