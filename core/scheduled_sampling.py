"""Scheduled sampling: training states that the model's own denoising produced (Bengio et al. 2015, for diffusion).

A denoiser is trained on perfectly noised text and generates from its own mistakes: *exposure bias*. Here a training
state at timestep t starts as perfectly noised text at t + k and is carried to t by the current weights. The masks are
coupled: one uniform number U a token, masked at t iff U < mask_prob_t, so the walk reveals exactly the tokens with
mask_prob_t <= U < mask_prob_{t+k}, and shows the model's samples there instead of the data. The masked positions,
their targets and their NELBO weights are the same with and without the walk: the two losses differ by what the states
show and by nothing else.

The loss at such states is not the bound. A state that is all the model's own says nothing about the data, and the
optimum then ignores what it sees (Huszar 2015, 1511.05101): keep the probability below 1, or ramp it up. For the same
reason not even the data's own conditionals reach a difference of 0: the targets go with the tokens that were replaced.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.alpha_schedule import SCHEDULES, AlphaSchedule
from core.denoisers import Denoiser
from core.generator import DiffusionGenerator
from core.masking_strategy import MaskingStrategy, uniform
from core.names import check_known
from core.sampling import SOLVERS, draw_keys
from core.scoring import Draws, Likelihood, noisy_prompts

# Offsets k in 0..K from a uniform number in [0, 1): where on the trajectory the model takes over.
STRATEGIES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "uniform": lambda u, K: (u * (K + 1)).floor(),
    "biased_early": lambda u, K: (u**2 * K).round(),
    "biased_late": lambda u, K: ((1 - u**2) * K).round(),
}
RAMP_SHAPES = ("linear", "cosine")


def source_of(
    timestep: Int[Tensor, "*shape"], offset: Int[Tensor, "*shape"] | int, max_timesteps: int
) -> Int[Tensor, "*shape"]:
    """The timestep t + k clamped to T. A state beyond T (all masked) has no noisier one to come from: it stays."""
    return (timestep + offset).clamp(max=max_timesteps).maximum(timestep)


@dataclass(frozen=True)
class Departures:
    """Where the walks of a batch begin, and by which noise they go.

    Attributes:
        source: timestep at which the model takes over, (B, M); the state's own where nobody walks.
        rolled_out: the sequences that are rolled out at all, (B,).
        keys: the key of each walk's noise (`core.sampling.noise`), (B, M); 0 where there is none.
    """

    source: Int[Tensor, "B M"]
    rolled_out: Bool[Tensor, " B"]
    keys: Int[Tensor, "B M"]

    def rows(self, rows: slice) -> "Departures":
        """Those of some rows."""
        return Departures(self.source[rows], self.rolled_out[rows], self.keys[rows])


@dataclass(frozen=True)
class RollOut:
    """States after scheduled sampling.

    Attributes:
        draws: the states, with ``shown`` and ``rolled_out`` filled in; masks and weights are those that came in.
        offset: timesteps that the model walked to each state, (B, M); 0 where none.
        self_revealed: visible tokens that are the model's samples, (B, M, L).
        wrong: those of them that are not the data's, (B, M, L).
        forwards: evaluations of the walk, batched over all rows.
    """

    draws: Draws
    offset: Int[Tensor, "B M"]
    self_revealed: Bool[Tensor, "B M L"]
    wrong: Bool[Tensor, "B M L"]
    forwards: int

    @staticmethod
    def cat(parts: "list[RollOut]") -> "RollOut":
        """Roll-outs of consecutive rows as one; forwards add up."""
        return RollOut(
            draws=Draws.cat([part.draws for part in parts]),
            offset=torch.cat([part.offset for part in parts]),
            self_revealed=torch.cat([part.self_revealed for part in parts]),
            wrong=torch.cat([part.wrong for part in parts]),
            forwards=sum(part.forwards for part in parts),
        )

    def metrics(self) -> dict[str, float]:
        """Means of one batch: offset of the rolled-out sequences, accuracy of self-revealed tokens, forwards."""
        rolled_out = self.draws.rolled_out
        assert rolled_out is not None
        found = {"forwards": float(self.forwards), "rolled_out": rolled_out.float().mean().item()}
        if bool(rolled_out.any()):
            found["mean_offset"] = self.offset[rolled_out].float().mean().item()
        if bool(self.self_revealed.any()):
            found["accuracy"] = 1 - self.wrong.sum().item() / self.self_revealed.sum().item()
        return found


class ScheduledSampling:
    """When, how far and by which solver training states are produced by the model itself.

    Args:
        max_step_offset: K, longest walk in timesteps; 0 is off. The source is clamped to T.
        probability: chance that a sequence is rolled out.
        ramp_steps: > 0: the probability goes from ``prob_start`` to ``prob_end`` over so many optimiser steps.
        prob_start, prob_end: ends of the ramp.
        start_step: optimiser step at which the ramp starts.
        ramp_shape: a name of `RAMP_SHAPES`.
        strategy: a key of `STRATEGIES`, the law of k.
        sampler: a key of `core.sampling.solvers.SOLVERS`, draws the tokens of the walk.

    Raises:
        ValueError: unknown names or impossible values.
    """

    def __init__(
        self,
        max_step_offset: int = 0,
        probability: float = 0.0,
        ramp_steps: int = 0,
        prob_start: float = 0.0,
        prob_end: float = 0.5,
        start_step: int = 0,
        ramp_shape: str = "linear",
        strategy: str = "uniform",
        sampler: str = "unipc",
    ):
        check_known("scheduled_sampling.ramp_shape", ramp_shape, RAMP_SHAPES)
        check_known("scheduled_sampling.strategy", strategy, STRATEGIES)
        check_known("scheduled_sampling.sampler", sampler, SOLVERS)
        for key, value in (("probability", probability), ("prob_start", prob_start), ("prob_end", prob_end)):
            if not 0 <= value <= 1:
                raise ValueError(f"scheduled_sampling.{key}={value} must lie in [0, 1]")
        for key, value in (
            ("max_step_offset", max_step_offset),
            ("ramp_steps", ramp_steps),
            ("start_step", start_step),
        ):
            if value < 0:
                raise ValueError(f"scheduled_sampling.{key}={value} must be at least 0")
        self.max_step_offset, self.probability = max_step_offset, probability
        self.ramp_steps, self.prob_start, self.prob_end = ramp_steps, prob_start, prob_end
        self.start_step, self.ramp_shape = start_step, ramp_shape
        self.strategy, self.sampler = strategy, sampler

    @property
    def active(self) -> bool:
        """Whether any step of a run can roll out."""
        highest = max(self.prob_start, self.prob_end) if self.ramp_steps > 0 else self.probability
        return self.max_step_offset > 0 and highest > 0

    def probability_at(self, step: int) -> float:
        """Chance that a sequence is rolled out at an optimiser step."""
        if self.max_step_offset == 0:
            return 0.0
        if self.ramp_steps == 0:
            return self.probability
        progress = min(max((step - self.start_step) / self.ramp_steps, 0.0), 1.0)
        # The ramp's shapes are the schedules' mask probabilities with ends 0 and 1: u, and sin^2(pi u / 2).
        shape = SCHEDULES[self.ramp_shape](torch.tensor(progress, dtype=torch.float64), 0.0, 1.0).item()
        return self.prob_start + (self.prob_end - self.prob_start) * shape

    def draw_sources(
        self, timestep: Int[Tensor, "B M"], max_timesteps: int, step: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, "B M"], Bool[Tensor, " B"]]:
        """The timestep t + k at which the model takes over, and which sequences are rolled out at all."""
        chance = uniform(timestep.size(0), generator=generator, device=timestep.device)
        u = uniform(*timestep.shape, generator=generator, device=timestep.device)
        rolled_out = chance < self.probability_at(step)
        offset = STRATEGIES[self.strategy](u, self.max_step_offset).long() * rolled_out.unsqueeze(1)
        return source_of(timestep, offset, max_timesteps), rolled_out

    def depart(
        self, timestep: Int[Tensor, "B M"], max_timesteps: int, step: int, generator: torch.Generator
    ) -> Departures:
        """Draw all that a batch leaves to chance: of a part of it, take `Departures.rows`."""
        source, rolled_out = self.draw_sources(timestep, max_timesteps, step, generator)
        keys, walking = torch.zeros_like(timestep), source > timestep
        keys[walking] = draw_keys(int(walking.sum()), generator).to(keys.device)
        return Departures(source, rolled_out, keys)

    def roll_out(
        self,
        denoiser: Denoiser,
        masking: MaskingStrategy,
        prompt_ids: Int[Tensor, "B P"],
        prompt_mask: Tensor,
        ids: Int[Tensor, "B L"],
        draws: Draws,
        step: int,
        noise: torch.Generator | Departures,
        temperature: float = 1.0,
    ) -> RollOut:
        """Replace what the states of ``draws`` show by the model's own samples, as far as it walked.

        The model runs in eval mode and without gradients; its mode and the global random state are as before.

        Args:
            denoiser: the current weights.
            masking: the strategy that hid the tokens; holds the schedule.
            prompt_ids, prompt_mask: (B, P).
            ids: the data, (B, L).
            draws: states from source ``forward``, with their ``u``.
            step: optimiser step, for the ramp.
            noise: the only source of randomness, not the one of the masks; or what was drawn from it (`depart`).
            temperature: of the tokens drawn.
        """
        timestep = draws.timestep
        if draws.u is None or timestep is None or masking.schedule is None:
            raise ValueError("scheduled sampling continues masks drawn by timestep: it needs loss.source='forward'")
        if isinstance(noise, torch.Generator):
            noise = self.depart(timestep, masking.schedule.max_timesteps, step, noise)
        source, rolled_out = noise.source, noise.rolled_out
        shown = ids.unsqueeze(1).expand_as(draws.hidden).clone()
        self_revealed = masking.hide(draws.u, source) & ~draws.hidden
        walking = source > timestep  # (B, M)
        forwards = 0
        if bool(walking.any()):
            walk = self._walk(denoiser, masking.schedule, masking, ids.size(1), temperature)
            prompts = noisy_prompts(prompt_ids, prompt_mask, draws, denoiser.mask_id)
            with denoiser.evaluating():
                canvas = walk.denoise(
                    prompts[walking],
                    prompt_mask.unsqueeze(1).expand_as(prompts)[walking],
                    shown[walking],
                    draws.u[walking],
                    source[walking],
                    timestep[walking],
                    noise.keys[walking],
                )
            shown[walking] = torch.where(self_revealed[walking], canvas.ids, shown[walking])
            forwards = canvas.step
        return RollOut(
            draws=replace(draws, shown=shown, rolled_out=rolled_out),
            offset=source - timestep,
            self_revealed=self_revealed,
            wrong=self_revealed & (shown != ids.unsqueeze(1)),
            forwards=forwards,
        )

    def _walk(
        self, denoiser: Denoiser, schedule: AlphaSchedule, masking: MaskingStrategy, length: int, temperature: float
    ) -> DiffusionGenerator:
        """The generator's own ancestral sampler."""
        return DiffusionGenerator(
            denoiser, schedule, masking, length, sampler="ancestral", solver=self.sampler, temperature=temperature
        )


def exposure_bias(
    nelbo_loss: Likelihood,
    denoiser: Denoiser,
    prompt_ids: Int[Tensor, "B P"],
    prompt_mask: Tensor,
    ids: Int[Tensor, "B L"],
    draws: Draws,
    temperature: float = 1.0,
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
    """The weighted loss of the R rolled-out sequences at their rolled-out and at the clean states, nats a sequence.

    Equal masks and weights, so the clean values estimate the bound and the mean difference is the price of seeing the
    model's own tokens. Two forwards without gradients; R must not be 0, which transformers do not run on.
    """
    assert draws.rolled_out is not None
    rows = draws.rolled_out
    with denoiser.evaluating():
        rolled, clean = (
            nelbo_loss.score(
                denoiser, prompt_ids[rows], prompt_mask[rows], ids[rows], states.rows(rows), temperature
            ).sequence_bound
            for states in (draws, replace(draws, shown=None))
        )
    return rolled, clean
