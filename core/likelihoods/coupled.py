"""DiffuCoder's coupled estimate: complementary masks and the full mask (Gong et al. 2025, 2506.20639).

With P pairs of a mask of rate r ~ U(.2, .8) and its complement of rate 1 - r, and l_k(state) = log p(token k | state),

    value = sum_k [l_k(all hidden) + sum over pairs of l_k / rate in the one of the two masks that hides k] / (P + 1)

Every token is scored P + 1 times. The expectation is sum_k [l_k(all hidden) + 2 P E_r E(l_k | k hidden at rate r)] /
(P + 1): for P = 1 half the one-step value plus a mean over middling rates whose weight is 1, so 1.5 log-likelihoods in
all; a likelihood to differentiate, not a bound. Forwards a sequence: 1 + 2 P, published 3.
"""

import torch
from torch import Tensor

from core.masking_strategy import MaskingStrategy
from core.scoring import Likelihood
from core.scoring.draws import Noise
from core.trajectory import Trajectory

COUPLED_RATES = (0.2, 0.8)  # DiffuCoder's range of mask rates


class CoupledMasks(Likelihood):
    """The full mask, and pairs of a mask and its complement."""

    default_draws = 3

    def allowed_draws(self) -> str | None:
        """Refuses even numbers and 1: there are the full mask and at least one pair."""
        return None if self.num_draws % 2 and self.num_draws > 1 else "odd and at least 3: the full mask and pairs"

    def num_groups(self, states: int) -> int:
        """A single replicate, so no standard error: the full mask counts once beside all pairs."""
        return 1

    def draw_states(
        self, masking: MaskingStrategy, length: int, noise: Noise, trajectory: Trajectory | None
    ) -> dict[str, Tensor]:
        """``hidden`` (B, M, L), the full mask first and then the pairs, and ``weight`` 1 / (rate (P + 1)), (B, M)."""
        pairs = (self.num_draws - 1) // 2
        low, high = COUPLED_RATES
        rate = low + (high - low) * noise(pairs, 1)
        mask = noise(pairs, length) < rate
        hidden = torch.stack([mask, ~mask], dim=2).flatten(1, 2)
        rate = torch.stack([rate, 1 - rate], dim=2).flatten(1)
        hidden = torch.cat([torch.ones_like(hidden[:, :1]), hidden], dim=1)
        rate = torch.cat([torch.ones_like(rate[:, :1]), rate], dim=1)
        return {"hidden": hidden, "weight": 1 / (rate * (pairs + 1))}
