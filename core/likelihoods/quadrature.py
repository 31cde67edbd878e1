"""GDPO's quadrature: one mask at each of M Gauss-Legendre nodes of the noise level on [0, 1] (Rojas et al. 2025,
2510.08554).

With nodes t_m, weights w_m, a mask of rate t_m and l_k(state) = log p(token k | state),

    value = sum_m (w_m / t_m) sum over hidden k of l_k(state m)

The integrand E[sum of l_k over hidden k] / level is a polynomial of degree L - 1 in the level, so from M >= L / 2
nodes on only the masks are left to chance and the mean is the any-order bound exactly, as that of
`core.likelihoods.monte_carlo`; below that a bias of the rule remains. Use with importance_sampling_level: sequence, as
GDPO does. Forwards a sequence: M, published 3.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from core.masking_strategy import MaskingStrategy
from core.scoring import Likelihood
from core.scoring.draws import Noise
from core.trajectory import Trajectory


class GaussQuadrature(Likelihood):
    """One mask at each node of a quadrature rule."""

    default_draws = 3

    def num_groups(self, states: int) -> int:
        """A single replicate, so no standard error: each state is at a node of its own."""
        return 1

    def draw_states(
        self, masking: MaskingStrategy, length: int, noise: Noise, trajectory: Trajectory | None
    ) -> dict[str, Tensor]:
        """``hidden`` (B, M, L), a mask at each node t_m of the noise level, and ``weight`` w_m / t_m, (B, M)."""
        level, weight = gauss_legendre(self.num_draws)
        hidden = noise(self.num_draws, length) < level.unsqueeze(1)
        return {"hidden": hidden, "weight": (weight / level).expand(hidden.shape[:2])}


def gauss_legendre(nodes: int) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Nodes in [0, 1] and weights of the Gauss-Legendre rule, float64, exact for polynomials of degree 2 n - 1.

    Eigenvalues of the Jacobi matrix of the Legendre polynomials (Golub and Welsch 1969).
    """
    k = torch.arange(1, nodes, dtype=torch.float64)
    beside = k / (4 * k**2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return (values + 1) / 2, vectors[0] ** 2
