"""The trajectory NELBO: an upper bound on -log p(completion | prompt) on exactly the noise that the rollouts use.

Two sources of states:

*forward*: noise the completion. A transition t is drawn with probability equal to its width; the tokens masked at t
enter with weight 1 / mask_prob_t. The expectation is the NELBO of the (T + 2)-transition chain, sum_t w_t E[CE of the
tokens masked at t] (MDLM, Sahoo et al. 2024, eq. 10; closed grid of `core.alpha_schedule`).

Given a block-causal model both are sums over blocks of the block's own value, given the clean text before it: each
state then holds a state of every block (`core.denoisers.attention.noisy_and_clean`). Forward states need no change for
that: the tokens of each block are masked as if it stood alone.

*rollout*: replay the states that the sampler was in (`Trajectory.step_map`). Under a rule that does not look at the
drawn tokens, the sum over all steps is exactly -log p(completion, path | prompt), which bounds
-log p(completion | prompt); K steps drawn without replacement from the S of a row, weighted S / K, estimate it without
bias (d2, Wang et al. 2025; TraceRL, Wang et al. 2025, merge steps into segments instead, which is cheaper and biased).
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.masking_strategy import MaskingStrategy
from core.scoring import Draws, Likelihood, total_weight
from core.scoring.draws import Noise
from core.trajectory import NEVER, Trajectory

SOURCES = ("rollout", "forward")
COUPLINGS = ("nested", "antithetic", "independent")
REPLAYS = ("drawn", "segments", "all")


class TrajectoryNELBOLoss(Likelihood):
    """The bound of the module's docstring. Forwards a sequence: M (forward), K (drawn, segments) or S (all steps).

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
        for key, value, known in (
            ("source", source, SOURCES),
            ("coupling", coupling, COUPLINGS),
            ("replay", replay, REPLAYS),
        ):
            if value not in known:
                raise ValueError(f"loss.{key}={value!r} is unknown; known: {', '.join(known)}")
        self.source, self.coupling, self.replay = source, coupling, replay
        self.causal_block_length = causal_block_length
        self.replays_steps = source == "rollout" and replay != "segments"
        super().__init__(max_timesteps, alpha_schedule, alpha_min, alpha_max, num_draws, ratio)

    def allowed_draws(self) -> str | None:
        pairs = self.coupling == "antithetic"
        return "an even number for antithetic coupling, which draws pairs" if pairs and self.num_draws % 2 else None

    def num_groups(self, states: int) -> int:
        """Replay: the steps. Forward: 2 replicates, stratified and coupled inside, or 1 if M is too small."""
        if self.source == "rollout":
            return states
        return 2 if states % (4 if self.coupling == "antithetic" else 2) == 0 else 1

    def get_performance_stats(self) -> dict[str, Any]:
        return {**super().get_performance_stats(), "coupling": self.coupling, "replay": self.replay}

    # ---- drawing -------------------------------------------------------------------------------------------------

    def draw_states(
        self, masking: MaskingStrategy, length: int, noise: Noise, trajectory: Trajectory | None
    ) -> dict[str, Tensor]:
        if self.source == "forward":
            return self._draw_forward(masking, length, noise)
        if trajectory is None:
            raise ValueError("loss.source='rollout' replays a recorded rollout, and none was given; use 'forward'")
        return self._draw_rollout(trajectory, noise)

    def _draw_forward(self, masking: MaskingStrategy, length: int, noise: Noise) -> dict[str, Tensor]:
        """Stratified levels and coupled masks, in `num_groups` independent replicates of M / num_groups draws."""
        if masking.schedule is None:
            raise ValueError(
                "loss.source='forward' weights masks by their timestep: masking.strategy_type='diffusion'"
            )
        groups = self.num_groups(self.num_draws)
        per_group = self.num_draws // groups
        repeat = 2 if self.coupling == "antithetic" else 1  # a pair shares its level
        strata = per_group // repeat
        jitter = noise(groups, strata)
        levels = (torch.arange(strata) + jitter) / strata
        timestep = self.schedule.transition_at(levels.clamp(min=torch.finfo(levels.dtype).tiny))
        timestep = timestep.repeat_interleave(repeat, dim=2)

        own = {"nested": 1, "antithetic": strata, "independent": per_group}[self.coupling]
        u = noise(groups, own, length)
        if self.coupling == "antithetic":
            u = torch.stack([u, 1 - u], dim=3).flatten(2, 3)
        u = u.expand(-1, -1, per_group, -1)

        timestep, u = timestep.flatten(1, 2), u.flatten(1, 2)
        weight = 1 / (self.schedule.mask_prob(timestep) * self.num_draws)
        return {"hidden": masking.hide(u, timestep), "weight": weight, "timestep": timestep, "u": u}

    def _draw_rollout(self, trajectory: Trajectory, noise: Noise) -> dict[str, Tensor]:
        """States of the recorded rollout: before the first step of each of the chosen runs of steps, of which the
        tokens are scored.

        n blocks that are replayed side by side are n rows of their own, which choose among equally many steps: a block
        that took fewer has empty ones. A draw then weighs the same in all blocks, and K of S drawn steps are a simple
        random sample in each.
        """
        rows, length = trajectory.step_map.shape
        block_length = self.causal_block_length or length
        if length % block_length:
            raise ValueError(f"causal_block_length={block_length}: expected a divisor of the canvas, {length} tokens")
        blocks = length // block_length
        step_map, steps = _dense_steps(trajectory.step_map.cpu().reshape(rows * blocks, -1))  # (B*n, b), (B*n,)
        if self.replay != "segments":
            steps = steps.view(rows, blocks).amax(dim=1).repeat_interleave(blocks)

        def noise_by_block(*shape: int) -> Tensor:
            return noise(blocks, *shape).flatten(0, 1)

        def side_by_side(state: Bool[Tensor, "R M b"]) -> Bool[Tensor, "B M L"]:
            return state.unflatten(0, (rows, blocks)).transpose(1, 2).flatten(2)

        start, stop, weight = self.choose_steps(steps, noise_by_block, step_map.size(1))
        if blocks == 1:  # in order of time; blocks are joined at random, so that their draws stay independent
            start, stop = start.sort(dim=1).values, stop.sort(dim=1).values
        step_map, start, stop, weight = step_map.unsqueeze(1), start.unsqueeze(2), stop.unsqueeze(2), weight[::blocks]
        drawn = {
            "hidden": side_by_side(step_map >= start),
            "scored": side_by_side((step_map >= start) & (step_map < stop)),
            "weight": weight.unsqueeze(1).expand(rows, start.size(1)),
            "variance_factor": (1 - 1 / weight).float(),
        }
        return drawn if blocks > 1 else {**drawn, "timestep": start.squeeze(2)}

    def choose_steps(
        self, steps: Int[Tensor, " B"], noise: Noise, most: int
    ) -> tuple[Int[Tensor, "B K"], Int[Tensor, "B K"], Float[Tensor, " B"]]:
        """Runs of steps to score, [start, stop) each, and what a run counts, from the S of each row.

        Args:
            steps: S, (B,).
            noise: source of uniforms.
            most: upper limit of S in any batch.
        """
        if self.replay == "segments":
            edges = torch.arange(self.num_draws + 1) * steps.unsqueeze(1) // self.num_draws  # (B, K+1)
            return edges[:, :-1], edges[:, 1:], torch.ones(len(steps))
        # Random keys, the K smallest win: a draw without replacement from each row's own steps.
        keys = noise(most).masked_fill(
            torch.arange(most) >= steps.unsqueeze(1), math.inf
        )  # a row's missing steps last
        drawn = self.replay == "drawn"
        count = self.num_draws if drawn else int(steps.max())
        start = keys.argsort(dim=1)[:, :count]
        return start, start + 1, steps / steps.clamp(max=self.num_draws) if drawn else torch.ones(len(steps))

    # ---- scoring -------------------------------------------------------------------------------------------------

    def plain_weight(self, draws: Draws) -> Float[Tensor, "B L"]:
        """Replayed steps are drawn with equal chances: their weights are all that there is."""
        if self.source == "forward":
            return super().plain_weight(draws)
        return total_weight(draws)


def _dense_steps(step_map: Int[Tensor, "B L"]) -> tuple[Int[Tensor, "B L"], Int[Tensor, " B"]]:
    """Number each row's own reveal steps 0, 1, ... S-1 without gaps (a batch step may reveal nothing in a row)."""
    revealed = step_map < NEVER
    last = int(step_map[revealed].max()) if bool(revealed.any()) else 0
    occurs = (step_map.unsqueeze(2) == torch.arange(last + 1)).any(dim=1)  # (B, S)
    rank = occurs.cumsum(dim=1) - 1
    return torch.where(revealed, rank.gather(1, step_map.clamp(max=last)), NEVER), occurs.sum(dim=1).clamp(min=1)
