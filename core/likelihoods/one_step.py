"""d1's one-step likelihood: every token given the prompt alone (Zhao et al. 2025, 2504.12216).

With l_k(state) = log p(token k | state), over a completion of L tokens,

    value = (1 / M) sum_m sum_k l_k(all hidden), the prompt masked afresh in each of the M states

Estimates the log-likelihood of a rollout of one step, exactly; biased for a rollout of more, whose later tokens saw
the earlier ones. Forwards a sequence: M, published 1.
"""

import torch
from torch import Tensor

from core.masking_strategy import MaskingStrategy
from core.scoring import Likelihood
from core.scoring.draws import Noise
from core.trajectory import Trajectory


class OneStep(Likelihood):
    """Every token hidden, the prompt masked."""

    default_draws = 1

    def draw_states(
        self, masking: MaskingStrategy, length: int, noise: Noise, trajectory: Trajectory | None
    ) -> dict[str, Tensor]:
        """``hidden`` (B, M, L), True everywhere, and ``weight`` 1 / M, (B, M)."""
        hidden = torch.ones_like(noise(self.num_draws, length), dtype=torch.bool)
        return {"hidden": hidden, "weight": hidden[:, :, 0] / self.num_draws}
