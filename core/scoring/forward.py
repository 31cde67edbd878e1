"""States by the forward process: at which levels a completion is noised, and how the masks of its draws hang together.

A transition t of the closed grid is drawn with probability equal to its width alpha_{t-1} - alpha_t; of the tokens,
those with U < mask_prob_t are hidden (`core.masking_strategy`). M draws come in G independent replicates of m = M / G:
levels are stratified and masks are coupled inside a replicate, and replicates give the standard error.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.scoring.draws import Noise


def stratified_levels(noise: Noise, groups: int, strata: int) -> Float[Tensor, "B G S"]:
    """One uniform number in each of S equal parts of (0, 1], for each of G replicates."""
    levels = (torch.arange(strata) + noise(groups, strata)) / strata
    return levels.clamp(min=torch.finfo(levels.dtype).tiny)


def nested(noise: Noise, groups: int, draws: int, length: int) -> Float[Tensor, "B G m L"]:
    """One uniform number a token for all levels: states are nested, as in a rollout."""
    return noise(groups, 1, length).expand(-1, -1, draws, -1)


def antithetic(noise: Noise, groups: int, draws: int, length: int) -> Float[Tensor, "B G m L"]:
    """Pairs with U and 1 - U."""
    u = noise(groups, draws // 2, length)
    return torch.stack([u, 1 - u], dim=3).flatten(2, 3)


def independent(noise: Noise, groups: int, draws: int, length: int) -> Float[Tensor, "B G m L"]:
    """New uniform numbers in every draw."""
    return noise(groups, draws, length)


@dataclass(frozen=True)
class Coupling:
    """How the masks of one replicate hang together.

    Attributes:
        uniforms: (noise, G, m, L) -> U of each token in each draw, (B, G, m, L).
        per_level: neighbouring draws that share a level.
    """

    uniforms: Callable[[Noise, int, int, int], Tensor]
    per_level: int = 1

    def replicates(self, draws: int) -> int:
        """G: 2, or 1 if there are too few draws for two of whole pairs."""
        return 2 if draws % (2 * self.per_level) == 0 else 1


COUPLINGS: dict[str, Coupling] = {
    "nested": Coupling(nested),
    "antithetic": Coupling(antithetic, per_level=2),
    "independent": Coupling(independent),
}
