"""The trajectory NELBO: an upper bound on -log p(completion | prompt) on exactly the noise that the rollouts use.

With l_k(state) = log p(token k | state), mask_prob_t = 1 - alpha_t and the closed grid of `core.alpha_schedule`, there
are two sources of states:

*forward* (`core.scoring.forward`): noise the completion. The NELBO of the (T + 2)-transition chain (MDLM, Sahoo et al.
2024, 2406.07524, eq. 10), with w_t = (alpha_{t-1} - alpha_t) / mask_prob_t, is estimated by drawing transitions t with
probability equal to their width alpha_{t-1} - alpha_t, which leaves the weight 1 / mask_prob_t:

    (1)  sum_t w_t E[sum over k masked at t of -l_k] = E_t[1 / mask_prob_t sum over k masked at t of -l_k]

*rollout* (`core.scoring.replay`): replay the states that the sampler was in (`Trajectory.step_map`). Under a rule that
does not look at the drawn tokens, the sum over all S steps is exactly -log p(completion, path | prompt), which bounds
-log p(completion | prompt). K steps drawn without replacement, weighted S / K, estimate it without bias:

    (2)  sum over steps s of sum over k revealed in s of -l_k(state before s) = E[S / K sum over K drawn steps]

Merging the steps into segments (d2, Wang et al. 2025; TraceRL, Wang et al. 2025) is cheaper and biased.

Given a block-causal model both are sums over blocks of the block's own value, given the clean text before it: each
state then holds a state of every block (`core.denoisers.attention.noisy_and_clean`). Forward states need no change for
that: the tokens of each block are masked as if it stood alone.

Forwards a sequence: M (forward), K (drawn, segments) or S (all steps).
"""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from core.masking_strategy import MaskingStrategy
from core.names import check_known
from core.scoring import Draws, Likelihood, total_weight
from core.scoring.draws import Noise
from core.scoring.forward import COUPLINGS, stratified_levels
from core.scoring.replay import REPLAYS, Blocks, Runs, dense_steps, replayed_states
from core.trajectory import Trajectory

SOURCES = ("rollout", "forward")


class TrajectoryNELBOLoss(Likelihood):
    """The bound of the module's docstring, estimated by (1) or by (2).

    Args:
        max_timesteps, alpha_schedule, alpha_min, alpha_max, ratio: see `Likelihood`.
        source: ``forward`` (noise the completion) or ``rollout`` (replay the recorded step_map).
        num_draws: M, states per sequence (forward and drawn) or K, the number of segments.
        coupling: forward only. ``nested``: one uniform per token for all levels, states nested as in a rollout;
            ``antithetic``: pairs with U and 1 - U at the same level; ``independent``: new uniforms in every draw.
            Levels are stratified over the width measure in each case.
        replay: rollout only. ``segments``: K merged segments of steps, every token scored; ``drawn``: K steps drawn
            without replacement, unbiased and noisier; ``all``: every step. docs/estimators.md says why in this order.
        causal_block_length: rollout only. Tokens of a block of a block-causal model: blocks are then replayed side by
            side, so that a state holds one step, or one segment, of every block, and S is the number of steps of the
            block that took most. None: one step of the whole canvas.

    Raises:
        ValueError: unknown names or impossible values.
    """

    default_draws = 2

    def __init__(
        self,
        max_timesteps: int = 128,
        alpha_schedule: str = "cosine",
        alpha_min: float = 0.01,
        alpha_max: float = 0.99,
        source: str = "forward",
        num_draws: int | None = None,
        coupling: str = "nested",
        replay: str = "segments",
        ratio: str | None = None,
        causal_block_length: int | None = None,
    ):
        check_known("loss.source", source, SOURCES)
        check_known("loss.coupling", coupling, COUPLINGS)
        check_known("loss.replay", replay, REPLAYS)
        self.source, self.coupling, self.replay = source, coupling, replay
        self.causal_block_length = causal_block_length
        self.replays_steps = source == "rollout" and replay != "segments"
        super().__init__(max_timesteps, alpha_schedule, alpha_min, alpha_max, num_draws, ratio)

    def allowed_draws(self) -> str | None:
        """Refuses an odd number of states for antithetic coupling, which draws pairs."""
        pairs = COUPLINGS[self.coupling].per_level == 2
        return "an even number for antithetic coupling, which draws pairs" if pairs and self.num_draws % 2 else None

    def num_groups(self, states: int) -> int:
        """Replay: the steps; merged ones give none, as their bias has no spread. Forward: the replicates, stratified
        and coupled inside."""
        if self.source == "rollout":
            return 1 if self.replay == "segments" else states
        return COUPLINGS[self.coupling].replicates(states)

    def get_performance_stats(self) -> dict[str, Any]:
        """The schedule's parameters and how states are drawn, with coupling and replay."""
        return {**super().get_performance_stats(), "coupling": self.coupling, "replay": self.replay}

    def draw_states(
        self, masking: MaskingStrategy, length: int, noise: Noise, trajectory: Trajectory | None
    ) -> dict[str, Tensor]:
        """The states of (1) or (2): ``hidden`` (B, M, L) and ``weight`` (B, M); (1) adds ``u``, (2) ``scored``."""
        if self.source == "forward":
            return self._forward_states(masking, length, noise)
        if trajectory is None:
            raise ValueError("loss.source='rollout' replays a recorded rollout, and none was given; use 'forward'")
        return self._rollout_states(trajectory, noise)

    def _forward_states(self, masking: MaskingStrategy, length: int, noise: Noise) -> dict[str, Tensor]:
        """M states of (1), in independent replicates."""
        if masking.schedule is None:
            raise ValueError(
                "loss.source='forward' weights masks by their timestep: masking.strategy_type='diffusion'"
            )
        coupling, groups = COUPLINGS[self.coupling], self.num_groups(self.num_draws)
        draws = self.num_draws // groups
        levels = stratified_levels(noise, groups, draws // coupling.per_level)
        timestep = self.schedule.transition_at(levels).repeat_interleave(coupling.per_level, dim=2).flatten(1, 2)
        u = coupling.uniforms(noise, groups, draws, length).flatten(1, 2)
        weight = 1 / (self.schedule.mask_prob(timestep) * self.num_draws)  # (1), averaged over M
        return {"hidden": masking.hide(u, timestep), "weight": weight, "timestep": timestep, "u": u}

    def _rollout_states(self, trajectory: Trajectory, noise: Noise) -> dict[str, Tensor]:
        """The steps of (2), or segments of them."""
        blocks = Blocks.of(trajectory.step_map, self.causal_block_length, trajectory.lead)
        step_map, steps = dense_steps(blocks.apart(trajectory.step_map.cpu()))
        if self.replay != "segments":
            steps = blocks.longest(steps)
        runs = self.choose_steps(steps, blocks.noise(noise), step_map.size(1))
        if blocks.count > 1:  # joined at random, so that their draws stay independent
            return replayed_states(step_map, runs, blocks)
        runs = runs.in_order_of_time()
        return {**replayed_states(step_map, runs, blocks), "timestep": runs.start}

    def choose_steps(self, steps: Int[Tensor, " R"], noise: Noise, most: int) -> Runs:
        """Runs of steps to score, from the S of each row.

        Args:
            steps: S, (R,).
            noise: source of uniforms for R rows.
            most: upper limit of S in any batch.
        """
        return REPLAYS[self.replay](steps, self.num_draws, noise, most)

    def plain_weight(self, draws: Draws) -> Float[Tensor, "B L"]:
        """Replayed steps are drawn with equal chances: their weights are all that there is."""
        return super().plain_weight(draws) if self.source == "forward" else total_weight(draws)
