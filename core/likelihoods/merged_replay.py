"""The rollout's own states, neighbouring steps merged: tokens of a segment are scored on the state before it.

    value = sum over segments j of sum over k revealed in j of log p(token k | state before j)

With K segments, d2-StepMerge (Wang et al. 2025, 2509.21474; published K = 8); with segments of s steps, TraceRL's
shrinkage (Wang et al. 2025, 2509.06949); unmerged (K at least the number of steps, or s = 1), the exact replay of
CJ-GRPO (Yang et al. 2025, 2509.23924): under a distribution-only rule that is the exact log-probability of the path.
Merging is biased: a token no longer sees those that its segment committed before it. Forwards a sequence: K, or S / s
for the S steps of the rollout.
"""

from jaxtyping import Int
from torch import Tensor

from core.nelbo import TrajectoryNELBOLoss
from core.scoring.draws import Noise
from core.scoring.replay import Runs, segments_of


class MergedReplay(TrajectoryNELBOLoss):
    """Segments of the recorded rollout, by their number or by their length.

    Args:
        max_timesteps, alpha_schedule, alpha_min, alpha_max, num_draws, ratio: see `Likelihood`; num_draws is K.
        shrinkage: s, steps merged into one state, in place of K.

    Raises:
        ValueError: s below 1, or both s and K.
    """

    default_draws = 8

    def __init__(
        self,
        max_timesteps: int = 128,
        alpha_schedule: str = "cosine",
        alpha_min: float = 0.01,
        alpha_max: float = 0.99,
        num_draws: int | None = None,
        ratio: str | None = None,
        shrinkage: int | None = None,
    ):
        if shrinkage is not None and (shrinkage < 1 or num_draws is not None):
            raise ValueError(f"loss.shrinkage={shrinkage}: expected at least 1, and loss.num_draws={num_draws} unset")
        self.shrinkage = shrinkage
        grid = (max_timesteps, alpha_schedule, alpha_min, alpha_max)
        super().__init__(*grid, "rollout", num_draws, replay="segments", ratio=ratio)
        self.replays_steps = shrinkage == 1

    def choose_steps(self, steps: Int[Tensor, " R"], noise: Noise, most: int) -> Runs:
        """Segments of ``shrinkage`` steps where that is set, else the inherited K segments."""
        if self.shrinkage is None:
            return super().choose_steps(steps, noise, most)
        return segments_of(steps, self.shrinkage)
