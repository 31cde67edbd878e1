"""ESPO's coupled sampling: Monte-Carlo masks in pairs with their complements (Ou et al. 2025, 2512.03759).

With a mask of l ~ U{1..L} of the L tokens, its complement of L - l, and l_k(state) = log p(token k | state),

    value = mean over M / 2 pairs of the mean over both members of (L / l) sum over hidden k of l_k(state)

Unbiased for the any-order bound, as `core.likelihoods.monte_carlo`. The complement of the full mask is empty: counting
nothing for it would leave out half of what the full mask stands for. Here its partner is the full mask itself, which
makes the mean unbiased: both members then hide each number of tokens from 1 to L equally often. Use with
importance_sampling_level: sequence, as ESPO does. Forwards a sequence: M, published 2.
"""

import torch
from torch import Tensor

from core.likelihoods.monte_carlo import hide_some
from core.masking_strategy import MaskingStrategy
from core.scoring import Likelihood
from core.scoring.draws import Noise
from core.trajectory import Trajectory


class ComplementaryMonteCarlo(Likelihood):
    """Pairs of a mask and its complement."""

    default_draws = 2

    def allowed_draws(self) -> str | None:
        """Refuses an odd number of states, as each mask comes with its complement."""
        return "an even number: masks come with their complements" if self.num_draws % 2 else None

    def num_groups(self, states: int) -> int:
        """One replicate a pair: a mask and its complement depend on each other."""
        return states // 2

    def draw_states(
        self, masking: MaskingStrategy, length: int, noise: Noise, trajectory: Trajectory | None
    ) -> dict[str, Tensor]:
        """``hidden`` (B, M, L), each mask next to its complement, and ``weight`` L / (l M) for l hidden, (B, M)."""
        mask = hide_some(noise, self.num_draws // 2, length)
        partner = torch.where(mask.all(dim=2, keepdim=True), mask, ~mask)
        hidden = torch.stack([mask, partner], dim=2).flatten(1, 2)
        return {"hidden": hidden, "weight": length / (hidden.sum(dim=2) * self.num_draws)}
