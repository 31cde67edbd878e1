"""Exact replay of LLaDA's low_confidence rule: the probability of the tokens and of the choice of positions.

The rule (Nie et al. 2025, 2502.09992, "low-confidence remasking"; the replay is this library's) draws x_j ~ q_j at
every masked position j of the block and commits the positions B whose drawn tokens have the largest p_j(x_j), where p
is the distribution at temperature 1 and q at the sampling temperature. So a step has probability

    prod_{i in B} q_i(x_i) * prod_{j not in B} F_j,    F_j = q_j{v : p_j(v) < min_{i in B} p_i(x_i)}

as the tokens that were passed over must have been less likely. Replay without F (`trajectory_nelbo`, TraceRL, d2) is
not the law of the commits: it misses sum_j log F_j, and its policy gradient is biased. A sum over all steps is exact;
K drawn steps, weighted S / K, are unbiased. Each token of a step carries an equal share of its step's log F. Where an
update has made the recorded choice impossible, F is floored at `SelectionReplay.FLOOR`, without gradient. Forwards a
sequence: K, or S for all steps; the head runs on all masked positions of the block.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.denoisers import Denoiser
from core.denoisers.projection import of_targets, tempered_logps
from core.masking_strategy import MaskingStrategy
from core.nelbo import TrajectoryNELBOLoss
from core.scoring import Draws, predict_states
from core.scoring.draws import Noise
from core.scoring.states import scatter, targets
from core.trajectory import Trajectory


class SelectionReplay(TrajectoryNELBOLoss):
    """Steps of the recorded rollout, with the probability that just these positions were chosen.

    Args:
        max_timesteps, alpha_schedule, alpha_min, alpha_max, num_draws, ratio: see `Likelihood`.
        replay: ``drawn`` (K steps) or ``all``.
        block_length: of the sampler, tokens; None: the whole canvas is one block.
        temperature: of the sampler.

    Raises:
        ValueError: merged steps, or a greedy sampler: neither has a selection probability.
    """

    FLOOR = 1e-6

    def __init__(
        self,
        max_timesteps: int = 128,
        alpha_schedule: str = "cosine",
        alpha_min: float = 0.01,
        alpha_max: float = 0.99,
        num_draws: int | None = None,
        ratio: str | None = None,
        replay: str = "drawn",
        block_length: int | None = None,
        temperature: float = 1.0,
    ):
        if replay == "segments":
            raise ValueError("loss.replay='segments': merged steps have no selection probability; use drawn or all")
        if temperature <= 0:
            raise ValueError(f"generation.temperature={temperature}: expected above 0, greedy choices have no law")
        self.block_length, self.temperature = block_length, temperature
        grid = (max_timesteps, alpha_schedule, alpha_min, alpha_max)
        super().__init__(*grid, "rollout", num_draws, replay=replay, ratio=ratio)

    def draw_states(
        self, masking: MaskingStrategy, length: int, noise: Noise, trajectory: Trajectory | None
    ) -> dict[str, Tensor]:
        """The replayed steps, and ``candidates`` (B, M, L): every masked position of the block that the step is in."""
        drawn = super().draw_states(masking, length, noise, trajectory)
        assert trajectory is not None  # it was replayed
        lead = 0 if trajectory.lead is None else trajectory.lead.cpu()[:, None, None]
        block = (torch.arange(length) + lead) // (self.block_length or length)
        here = block == torch.where(drawn["scored"], block, -1).amax(dim=2, keepdim=True)  # a step is in one block
        return {**drawn, "candidates": drawn["hidden"] & here}

    def predicted(self, draws: Draws) -> Bool[Tensor, "B M L"]:
        """All candidates, chosen or passed over, (B, M, L): F takes the distributions of those passed over."""
        assert draws.candidates is not None
        return draws.candidates

    def evaluate(
        self,
        denoiser: Denoiser,
        prompt_ids: Int[Tensor, "B P"],
        prompt_mask: Tensor,
        ids: Int[Tensor, "B L"],
        draws: Draws,
        temperature: float,
    ) -> tuple[Float[Tensor, "B M L"], Float[Tensor, "B M L"]]:
        """As `from_distributions`, by one forward that keeps whole distributions, (R, V)."""
        logits = predict_states(denoiser, prompt_ids, prompt_mask, ids, draws, self.predicted(draws))
        return self.from_distributions(tempered_logps(logits, temperature), ids, draws)

    def from_distributions(
        self, all_logps: Float[Tensor, "R V"], ids: Int[Tensor, "B L"], draws: Draws
    ) -> tuple[Float[Tensor, "B M L"], Float[Tensor, "B M L"]]:
        """Log-probabilities (B, M, L) of the commits, each with its share of its step's log F, and entropies, nats."""
        candidates = self.predicted(draws)
        commits, entropies = of_targets(all_logps, targets(ids, candidates))
        logps = scatter(commits, candidates) + self._selection(all_logps, ids, draws)
        return logps * draws.scored, scatter(entropies, candidates) * draws.scored

    def _selection(
        self, all_logps: Float[Tensor, "R V"], ids: Int[Tensor, "B L"], draws: Draws
    ) -> Float[Tensor, "B M 1"]:
        """Log-probability that all other candidates drew something less likely, shared among the tokens of a step."""
        candidates = self.predicted(draws)
        with torch.no_grad():
            # the rule ranks at temperature 1; renormalising the tempered log-probs at 1 / temperature gives them back
            ranks = torch.log_softmax(all_logps * self.temperature, dim=1)
            chosen = scatter(ranks.gather(1, targets(ids, candidates).unsqueeze(1)).squeeze(1), candidates)
            threshold = chosen.masked_fill(~draws.scored, float("inf")).amin(dim=2, keepdim=True)
            below = ranks < threshold.expand_as(candidates)[candidates].unsqueeze(1)
        passed = scatter((all_logps.exp() * below).sum(dim=1).clamp(min=self.FLOOR).log(), candidates)
        passed = passed.masked_fill(draws.scored, 0.0).sum(dim=2, keepdim=True)
        return passed / draws.scored.sum(dim=2, keepdim=True).clamp(min=1)
