"""What a completion is worth under the policy: every published estimator, one file each.

Notation: L tokens of the canvas, l_k(state) = log p(token k | state). "Forwards" are states scored per sequence.

| name | states | forwards |
|---|---|---|
| trajectory_nelbo | steps of the rollout, drawn; or fresh masks on the schedule | K, S or M |
| one_step | everything hidden (d1) | M, published 1 |
| coupled | everything hidden; masks and their complements (DiffuCoder) | 1 + 2 pairs, published 3 |
| monte_carlo | l of L tokens hidden (LLaDA) | M |
| complementary | the same in pairs with their complements (ESPO) | M, published 2 |
| spg | fresh masks on the schedule, for a lower and an upper bound (SPG) | M, published 2 |
| rollout | merged steps of the rollout (d2, TraceRL; CJ-GRPO unmerged) | K |
| quadrature | one mask at each of M Gauss nodes of the noise level (GDPO) | M, published 3 |
| selection_replay | steps of the rollout, with the probability that just these positions were chosen | K or S |

What each brings in bias, variance and cost against the exact likelihood: docs/estimators.md. Imports `core.scoring`
and `core.nelbo`.
"""

from core.likelihoods.complementary import ComplementaryMonteCarlo
from core.likelihoods.coupled import CoupledMasks
from core.likelihoods.merged_replay import MergedReplay
from core.likelihoods.monte_carlo import MonteCarlo
from core.likelihoods.one_step import OneStep
from core.likelihoods.quadrature import GaussQuadrature
from core.likelihoods.sandwich import Sandwich
from core.likelihoods.selection_replay import SelectionReplay
from core.nelbo import TrajectoryNELBOLoss
from core.scoring import Likelihood

__all__ = [
    "ESTIMATORS",
    "ComplementaryMonteCarlo",
    "CoupledMasks",
    "GaussQuadrature",
    "MergedReplay",
    "MonteCarlo",
    "OneStep",
    "Sandwich",
    "SelectionReplay",
    "TrajectoryNELBOLoss",
]

ESTIMATORS: dict[str, type[Likelihood]] = {
    "trajectory_nelbo": TrajectoryNELBOLoss,
    "one_step": OneStep,
    "coupled": CoupledMasks,
    "monte_carlo": MonteCarlo,
    "complementary": ComplementaryMonteCarlo,
    "spg": Sandwich,
    "rollout": MergedReplay,
    "quadrature": GaussQuadrature,
    "selection_replay": SelectionReplay,
}
