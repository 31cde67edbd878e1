"""The trajectory NELBO: an upper bound on -log p(completion | prompt) on exactly the noise that the rollouts use.

Two sources of states:

*forward*: noise the completion. A transition t is drawn with probability equal to its width; the tokens masked at t
enter with weight 1 / mask_prob_t. The expectation is the NELBO of the (T + 2)-transition chain, sum_t w_t E[CE of the
tokens masked at t] (MDLM, Sahoo et al. 2024, eq. 10; closed grid of `core.alpha_schedule`).

*rollout*: replay the states that the sampler was in (`Trajectory.step_map`). Under a rule that does not look at the
drawn tokens, the sum over all steps is exactly -log p(completion, path | prompt), which bounds
-log p(completion | prompt); K steps drawn without replacement from the S of a row, weighted S / K, estimate it without
bias (d2, Wang et al. 2025; TraceRL, Wang et al. 2025, merge steps into segments instead, which is cheaper and biased).

The *bound* is kept apart from what goes into an importance *ratio*. The 1/mask_prob weight inside a ratio or a k3 KL
explodes; `per_token_logps` is therefore the plain mean of log p(token | state) over the draws that scored the token,
bounded and free of weights, and `token_weight` says how much each scored token stands for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.alpha_schedule import AlphaSchedule
from core.denoiser import Denoiser, tempered_logps
from core.masking_strategy import MaskingStrategy, uniform
from core.trajectory import NEVER, Trajectory

SOURCES = ("rollout", "forward")
COUPLINGS = ("nested", "antithetic", "independent")
REPLAYS = ("drawn", "segments", "all")


@dataclass(frozen=True)
class Draws:
    """All randomness of one estimate, batch first, so that it can travel in a batch dictionary and be split by rows.

    Attributes (with an iteration axis I behind B where `stack` made one):
        hidden: completion tokens masked in each of the M states, (B, M, L).
        scored: those of them whose log-prob counts, (B, M, L); all of them (forward) or those of one step (rollout).
        prompt_hidden: masked prompt tokens, (B, M, P).
        weight: weight of each draw in the bound, (B, M); sums over draws, 1/M included.
        timestep: timestep of each state on the closed grid (forward), or the replayed step (rollout), (B, M).
        variance_factor: 1 - K / S where K of S steps were drawn without replacement, else 1, (B,).
        u: the uniform number of each token that decided ``hidden``, (B, M, L); forward only. It stays where it was
            drawn: `to_dict` leaves it out.
        shown: the tokens at visible positions where these are not the scored text's own, (B, M, L), and
        rolled_out: the sequences that were offered such states, (B,); see `core.scheduled_sampling`.
    """

    hidden: Bool[Tensor, "B *I M L"]
    scored: Bool[Tensor, "B *I M L"]
    prompt_hidden: Bool[Tensor, "B *I M P"]
    weight: Float[Tensor, "B *I M"]
    timestep: Int[Tensor, "B *I M"]
    variance_factor: Float[Tensor, "B *I"]
    u: Float[Tensor, "B *I M L"] | None = None
    shown: Int[Tensor, "B *I M L"] | None = None
    rolled_out: Bool[Tensor, "B *I"] | None = None

    def to_dict(self, prefix: str) -> dict[str, Tensor]:
        """Fields under prefixed keys, for a batch dictionary."""
        return {prefix + name: value for name, value in self._tensors().items() if name != "u"}

    @classmethod
    def from_dict(cls, batch: dict[str, Any], prefix: str) -> "Draws":
        """The inverse of `to_dict`."""
        names = (field.name for field in fields(cls))
        return cls(**{name: batch[prefix + name] for name in names if prefix + name in batch})

    @classmethod
    def stack(cls, draws: "list[Draws]") -> "Draws":
        """I draws of the same batch as one record with an iteration axis behind the batch axis: (B, I, ...)."""
        return cls(**{name: torch.stack([getattr(d, name) for d in draws], dim=1) for name in draws[0]._tensors()})

    @classmethod
    def cat(cls, parts: "list[Draws]") -> "Draws":
        """The draws of consecutive rows as one record."""
        return cls(**{name: torch.cat([getattr(d, name) for d in parts]) for name in parts[0]._tensors()})

    def iteration(self, i: int) -> "Draws":
        """Undo `stack`: the draws of iteration i."""
        return Draws(**{name: value[:, i] for name, value in self._tensors().items()})

    def rows(self, rows: slice | Tensor) -> "Draws":
        """The draws of some rows (a slice, an index or a mask)."""
        return Draws(**{name: value[rows] for name, value in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class NELBOEstimate:
    """What one scoring pass says; everything float32, nats.

    Attributes:
        sequence_bound: estimate of the bound on -log p(completion | prompt), (B,).
        token_bound: its split over tokens, (B, L); sums to `sequence_bound`.
        standard_error: Monte-Carlo standard error of `sequence_bound` given the completion, (B,); 0 where nothing was
            left to chance, NaN where the number of draws is too small to tell.
        per_token_logps: mean log p(token | state) over the draws that scored the token, (B, L); 0 where none did.
        entropies: mean entropy of the distribution in the same draws, (B, L).
        token_weight: how many tokens each scored token stands for, (B, L); 0 where none did. Use as a loss mask.
    """

    sequence_bound: Float[Tensor, " B"]
    token_bound: Float[Tensor, "B L"]
    standard_error: Float[Tensor, " B"]
    per_token_logps: Float[Tensor, "B L"]
    entropies: Float[Tensor, "B L"]
    token_weight: Float[Tensor, "B L"]


class TrajectoryNELBOLoss:
    """Draws states once, scores them as often as asked: the same `Draws` for old, reference and current policy.

    Args:
        max_timesteps, alpha_schedule, alpha_min, alpha_max: see `AlphaSchedule`.
        source: ``forward`` (noise the completion) or ``rollout`` (replay the recorded step_map).
        num_draws: M, states per sequence (forward and drawn) or K, the number of segments.
        coupling: forward only. ``nested``: one uniform per token for all levels, states nested as in a rollout;
            ``antithetic``: pairs with U and 1 - U at the same level; ``independent``: new uniforms in every draw.
            Levels are stratified over the width measure in each case.
        replay: rollout only. ``drawn``: K steps drawn without replacement; ``segments``: K merged segments of steps;
            ``all``: every step.

    Raises:
        ValueError: unknown names or impossible values.
    """

    def __init__(
        self,
        max_timesteps: int = 128,
        alpha_schedule: str = "cosine",
        alpha_min: float = 0.01,
        alpha_max: float = 0.99,
        source: str = "forward",
        num_draws: int = 2,
        coupling: str = "nested",
        replay: str = "drawn",
    ):
        for key, value, known in (
            ("source", source, SOURCES),
            ("coupling", coupling, COUPLINGS),
            ("replay", replay, REPLAYS),
        ):
            if value not in known:
                raise ValueError(f"loss.{key}={value!r} is unknown; known: {', '.join(known)}")
        if num_draws < 1 or (coupling == "antithetic" and num_draws % 2):
            raise ValueError(f"loss.num_draws={num_draws} must be at least 1, and even for antithetic coupling")
        self.schedule = AlphaSchedule(alpha_schedule, max_timesteps, alpha_min, alpha_max)
        self.source, self.num_draws, self.coupling, self.replay = source, num_draws, coupling, replay

    @property
    def num_groups(self) -> int:
        """Independent replicates among the M forward draws, for the standard error; 1 if M is too small."""
        return 2 if self.num_draws % (4 if self.coupling == "antithetic" else 2) == 0 else 1

    def get_performance_stats(self) -> dict[str, Any]:
        """The schedule's parameters and how states are drawn."""
        return {
            **self.schedule.params,
            "source": self.source,
            "num_draws": self.num_draws,
            "coupling": self.coupling,
            "replay": self.replay,
        }

    def canvas(self, trajectory: Trajectory) -> Int[Tensor, "B L"]:
        """The tokens to score: as the sampler left them (rollout), or the text with its EOS tail (forward)."""
        return trajectory.ids if self.source == "rollout" else trajectory.completion_ids

    # ---- drawing -------------------------------------------------------------------------------------------------

    def draw(
        self,
        masking: MaskingStrategy,
        batch_size: int,
        canvas_length: int,
        prompt_length: int,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
        trajectory: Trajectory | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> Draws:
        """Draw the states of one estimate.

        Args:
            masking: hides the tokens; must hold the schedule of this loss (`sync_masking_with_nelbo`).
            batch_size, canvas_length, prompt_length: B, L, P.
            generator: the only source of randomness.
            device: where the draws are to live.
            trajectory: the recorded rollout; required by source ``rollout``.
            share: (rank, processes) if the batch is one of several equal parts of a global batch: the parts then get
                the masks that the whole would have got, given equal generators.
        """
        rank, processes = share

        def noise(*shape: int) -> Tensor:
            """Uniforms for the rows of this process, out of those for the global batch."""
            return uniform(processes, batch_size, *shape, generator=generator, device="cpu")[rank]

        if self.source == "rollout":
            if trajectory is None:
                raise ValueError("loss.source='rollout' replays a recorded rollout, and none was given; use 'forward'")
            drawn = self._draw_rollout(trajectory, noise)
        else:
            drawn = self._draw_forward(masking, canvas_length, noise)
        drawn["prompt_hidden"] = masking.hide_prompt(noise(drawn["hidden"].size(1), prompt_length))
        return Draws(**{key: value.to(device) for key, value in drawn.items()})

    def _draw_forward(self, masking: MaskingStrategy, length: int, noise: Callable[..., Tensor]) -> dict[str, Tensor]:
        """Stratified levels and coupled masks, in `num_groups` independent replicates of M / num_groups draws."""
        if masking.schedule is None:
            raise ValueError(
                "loss.source='forward' weights masks by their timestep: masking.strategy_type='diffusion'"
            )
        groups, per_group = self.num_groups, self.num_draws // self.num_groups
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
        hidden = masking.hide(u, timestep)
        weight = 1 / (self.schedule.mask_prob(timestep) * self.num_draws)
        return {
            "hidden": hidden,
            "scored": hidden,
            "weight": weight.float(),
            "timestep": timestep,
            "variance_factor": torch.ones(hidden.size(0)),
            "u": u,
        }

    def _draw_rollout(self, trajectory: Trajectory, noise: Callable[..., Tensor]) -> dict[str, Tensor]:
        """States of the recorded rollout: all steps, K drawn steps, or K merged segments."""
        step_map, steps = _dense_steps(trajectory.step_map.cpu())  # (B, L), and S of each row (B,)
        if self.replay == "segments":
            edges = torch.arange(self.num_draws + 1) * steps.unsqueeze(1) // self.num_draws  # (B, K+1)
            start, stop = edges[:, :-1], edges[:, 1:]
        else:
            # Random keys, the K smallest win: a draw without replacement from each row's own steps.
            keys = noise(step_map.size(1))  # there are at most L steps; those that a row lacks come last
            keys = keys.masked_fill(torch.arange(step_map.size(1)) >= steps.unsqueeze(1), math.inf)
            count = int(steps.max()) if self.replay == "all" else self.num_draws
            start = keys.argsort(dim=1)[:, :count].sort(dim=1).values
            stop = start + 1
        step_map, start, stop = step_map.unsqueeze(1), start.unsqueeze(2), stop.unsqueeze(2)
        weight = torch.ones(len(trajectory))
        if self.replay == "drawn":
            weight = steps / steps.clamp(max=self.num_draws)
        return {
            "hidden": step_map >= start,
            "scored": (step_map >= start) & (step_map < stop),
            "weight": weight.float().unsqueeze(1).expand(start.shape[:2]),
            "timestep": start.squeeze(2),
            "variance_factor": (1 - 1 / weight).float(),
        }

    # ---- scoring -------------------------------------------------------------------------------------------------

    def score(
        self,
        denoiser: Denoiser,
        prompt_ids: Int[Tensor, "B P"],
        prompt_mask: Tensor,
        ids: Int[Tensor, "B L"],
        draws: Draws,
        temperature: float = 1.0,
    ) -> NELBOEstimate:
        """Score the canvas ``ids`` on the states of ``draws``: one forward of B * M rows.

        Args:
            denoiser: the model.
            prompt_ids, prompt_mask: (B, P), left-padded; padding is 0 in the mask.
            ids: the whole canvas, EOS tail included, (B, L).
            draws: from `draw`.
            temperature: of the policy whose log-probs are wanted.
        """
        logits = predict_states(denoiser, prompt_ids, prompt_mask, ids, draws, draws.scored)
        return self.estimate(tempered_logps(logits, temperature), ids, draws)

    def estimate(self, all_logps: Float[Tensor, "R V"], ids: Int[Tensor, "B L"], draws: Draws) -> NELBOEstimate:
        """The estimate from the policy's log-probabilities at the R scored positions of ``draws``, in row-major
        order."""
        targets = ids.unsqueeze(1).expand_as(draws.scored)[draws.scored]
        picked = all_logps.gather(1, targets.unsqueeze(1)).squeeze(1)
        with torch.no_grad():
            entropy = torch.special.entr(all_logps.exp()).sum(dim=1)
        empty = all_logps.new_zeros(draws.scored.shape)
        logps, entropies = (empty.masked_scatter(draws.scored, values) for values in (picked, entropy))  # (B, M, L)
        weighted = -logps * draws.weight.unsqueeze(2)
        times_scored = draws.scored.sum(dim=1).clamp(min=1)
        return NELBOEstimate(
            sequence_bound=weighted.sum(dim=(1, 2)),
            token_bound=weighted.sum(dim=1),
            standard_error=self._standard_error(weighted.detach().sum(dim=2), draws),
            per_token_logps=logps.sum(dim=1) / times_scored,
            entropies=entropies.sum(dim=1) / times_scored,
            token_weight=self.token_weight(draws),
        )

    def token_weight(self, draws: Draws) -> Float[Tensor, "B L"]:
        """How many tokens each scored token stands for: a loss mask whose weighted sum is unbiased, (B, L)."""
        if self.source == "rollout":  # inverse inclusion probability of the token's step (Horvitz-Thompson)
            return (draws.scored * draws.weight.unsqueeze(2)).sum(dim=1)
        # Every token has the same chance to be hidden at least once: share the canvas among those that were.
        seen = draws.scored.any(dim=1).float()
        return seen * seen.size(1) / seen.sum(dim=1, keepdim=True).clamp(min=1)

    def _standard_error(self, terms: Float[Tensor, "B M"], draws: Draws) -> Float[Tensor, " B"]:
        """Standard error of the sum over draws, from the spread between its independent units.

        forward: the replicates of `num_groups`; stratification and coupling live inside a unit. rollout: the drawn
        steps, with the finite-population factor; rows whose every step was drawn have none.
        """
        units = terms.unflatten(1, (self.num_groups, -1)).sum(dim=2) if self.source == "forward" else terms
        count = units.size(1)
        spread = math.sqrt(count) * units.std(dim=1) if count > 1 else torch.full_like(terms[:, 0], math.nan)
        return torch.where(draws.variance_factor > 0, spread * draws.variance_factor.sqrt(), 0.0)

    def __call__(
        self,
        denoiser: Denoiser,
        masking: MaskingStrategy,
        prompt_ids: Int[Tensor, "B P"],
        prompt_mask: Tensor,
        ids: Int[Tensor, "B L"],
        generator: torch.Generator,
        trajectory: Trajectory | None = None,
        temperature: float = 1.0,
    ) -> NELBOEstimate:
        """Draw and score in one go, for training on given text."""
        draws = self.draw(masking, ids.size(0), ids.size(1), prompt_ids.size(1), generator, ids.device, trajectory)
        return self.score(denoiser, prompt_ids, prompt_mask, ids, draws, temperature)


def _dense_steps(step_map: Int[Tensor, "B L"]) -> tuple[Int[Tensor, "B L"], Int[Tensor, " B"]]:
    """Number each row's own reveal steps 0, 1, ... S-1 without gaps (a batch step may reveal nothing in a row)."""
    revealed = step_map < NEVER
    last = int(step_map[revealed].max()) if bool(revealed.any()) else 0
    occurs = (step_map.unsqueeze(2) == torch.arange(last + 1)).any(dim=1)  # (B, S)
    rank = occurs.cumsum(dim=1) - 1
    return torch.where(revealed, rank.gather(1, step_map.clamp(max=last)), NEVER), occurs.sum(dim=1).clamp(min=1)


def noisy_prompts(
    prompt_ids: Int[Tensor, "B P"], prompt_mask: Tensor, draws: Draws, mask_id: int
) -> Int[Tensor, "B M P"]:
    """The prompt of every state: masked where drawn so, padding left alone."""
    return torch.where(draws.prompt_hidden & prompt_mask.bool().unsqueeze(1), mask_id, prompt_ids.unsqueeze(1))


def predict_states(
    denoiser: Denoiser,
    prompt_ids: Int[Tensor, "B P"],
    prompt_mask: Tensor,
    ids: Int[Tensor, "B L"],
    draws: Draws,
    where: Bool[Tensor, "B M L"],
) -> Float[Tensor, "R V"]:
    """Logits at R positions ``where`` of the states of ``draws``, in row-major order: one forward of B * M rows."""
    visible = ids.unsqueeze(1) if draws.shown is None else draws.shown
    canvases = torch.where(draws.hidden, denoiser.mask_id, visible)
    prompts = noisy_prompts(prompt_ids, prompt_mask, draws, denoiser.mask_id)
    states = torch.cat([prompts, canvases], dim=2).flatten(0, 1)  # (B*M, P+L)
    attention_mask = torch.cat([prompt_mask, torch.ones_like(ids, dtype=prompt_mask.dtype)], dim=1)
    attention_mask = attention_mask.repeat_interleave(draws.hidden.size(1), dim=0)
    rows = torch.cat([torch.zeros_like(draws.prompt_hidden), where], dim=2).flatten(0, 1)
    return denoiser.logits(states, attention_mask, rows)
