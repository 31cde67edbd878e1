"""LLaDA's Monte-Carlo likelihood (Nie et al. 2025, 2502.09992).

With l ~ U{1..L} of the L tokens hidden and l_k(state) = log p(token k | state),

    value = mean over M states of (L / l) sum over hidden k of l_k(state)

Unbiased for the any-order bound E_order[sum_k l_k(the tokens before k in the order)], which every grid of timesteps
approaches as it is refined (`core.oracles.exact.any_order_average`). Forwards a sequence: M.
"""

from jaxtyping import Bool
from torch import Tensor

from core.masking_strategy import MaskingStrategy
from core.scoring import Likelihood
from core.scoring.draws import Noise
from core.trajectory import Trajectory


class MonteCarlo(Likelihood):
    """A number of tokens hidden that is drawn uniformly."""

    default_draws = 2

    def draw_states(
        self, masking: MaskingStrategy, length: int, noise: Noise, trajectory: Trajectory | None
    ) -> dict[str, Tensor]:
        """``hidden`` (B, M, L), l ~ U{1..L} tokens in each state, and ``weight`` L / (l M), (B, M)."""
        hidden = hide_some(noise, self.num_draws, length)
        return {"hidden": hidden, "weight": length / (hidden.sum(dim=2) * self.num_draws)}


def hide_some(noise: Noise, draws: int, length: int) -> Bool[Tensor, "B M L"]:
    """Hide l ~ U{1..L} tokens, each set of l equally likely."""
    count = (noise(draws, 1) * length).floor() + 1
    return noise(draws, length).argsort(dim=2).argsort(dim=2) < count
