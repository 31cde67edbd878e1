"""The denoising loop: from an all-masked canvas to a completion, on the loss's own schedule.

Each block of the canvas walks down the closed grid from all masked (T + 1) to clean (-1). With n blocks every n-th
timestep is used, so a canvas costs at most T + 2 evaluations however it is cut (LLaDA's convention: `steps` counts the
whole canvas). Three samplers share the law that the masked share of the block at timestep t is 1 - alpha_t:

*ancestral*: every masked token is revealed with the transition's probability; the sampler that the NELBO bounds.
*count_matched*: exactly round(L_block (1 - alpha_t)) tokens stay masked, a selection rule says which (LLaDA's uniform
counts are the linear schedule). *renoise*: predict everything, then noise to the next timestep with `forward_process`.

Transitions that reveal nothing anywhere cost no evaluation. A row ends at its first EOS once nothing before it is
masked; what comes later cannot change the text, so the row is dropped. The head runs on the positions that the step
needs. Sampling is a float32 Gumbel race: bfloat16 noise never leaves the thousand likeliest tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.alpha_schedule import AlphaSchedule
from core.denoiser import Denoiser, tempered_logps
from core.masking_strategy import MaskingStrategy, uniform
from core.selection import SELECTIONS
from core.trajectory import NEVER, Trajectory, tokens_to_first_eos


@dataclass(frozen=True)
class Prediction:
    """What one evaluation gave at R positions: drawn tokens, their log-probs, and all log-probs at temperature 1."""

    tokens: Int[Tensor, " R"]
    commit_logps: Float[Tensor, " R"]
    logps: Float[Tensor, "R V"]


def sample(logits: Float[Tensor, "R V"], temperature: float, generator: torch.Generator) -> Prediction:
    """Draw one token a row from softmax(logits / temperature); temperature 0 takes the likeliest, with certainty."""
    logps = torch.log_softmax(logits, dim=-1)
    if temperature == 0:
        return Prediction(logits.argmax(dim=-1), logits.new_zeros(logits.size(0)), logps)
    policy = tempered_logps(logits, temperature)
    race = torch.empty(policy.shape, device=generator.device).exponential_(generator=generator)
    tokens = (policy - race.to(policy.device).log()).argmax(dim=-1)
    return Prediction(tokens, policy.gather(1, tokens.unsqueeze(1)).squeeze(1), logps)


class Canvas:
    """The rows still being written: their tokens, when each was revealed, and what is left of the current block.

    The samplers below see this object; it belongs to one call of `DiffusionGenerator.generate`.
    """

    def __init__(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        length: int,
        owner: "DiffusionGenerator",
        generator: torch.Generator,
    ):
        batch, device = prompt_ids.size(0), prompt_ids.device
        self.owner, self.generator = owner, generator
        self.prompt_ids, self.prompt_mask = prompt_ids, prompt_mask
        self.ids = torch.full((batch, length), owner.denoiser.mask_id, dtype=torch.int64, device=device)
        self.step_map = torch.full_like(self.ids, NEVER)
        self.commit_logps = torch.zeros(batch, length, device=device)
        self.forwards = torch.zeros(batch, dtype=torch.int64, device=device)
        self.alive = torch.arange(batch, device=device)  # A rows
        self.step = 0
        # One uniform a token: the ancestral sampler reveals it when the mask probability falls below.
        self.u = uniform(batch, length, generator=generator, device=device)
        self.block = slice(0, length)

    @property
    def masked(self) -> Bool[Tensor, "A Lb"]:
        """Positions of the current block that are still masked."""
        return self.step_map[self.alive, self.block] == NEVER

    def predict(self, positions: Bool[Tensor, "A Lb"]) -> Prediction:
        """Evaluate the denoiser on the rows that are alive and draw a token at each of the given positions."""
        ids = torch.cat([self.prompt_ids[self.alive], self.ids[self.alive]], dim=1)
        attention_mask = torch.cat([self.prompt_mask[self.alive], torch.ones_like(self.ids[self.alive])], dim=1)
        rows = torch.zeros_like(ids, dtype=torch.bool)
        prompt_length = self.prompt_ids.size(1)
        rows[:, prompt_length + self.block.start : prompt_length + self.block.stop] = positions
        logits = self.owner.denoiser.logits(ids, attention_mask, rows)
        self.forwards[self.alive] += 1
        self.step += 1
        return sample(logits, self.owner.temperature, self.generator)

    def reveal(self, where: Bool[Tensor, "A Lb"], tokens: Tensor, commit_logps: Tensor) -> None:
        """Commit tokens (one for each True, in order) in the step just evaluated."""
        for whole, value in ((self.ids, tokens), (self.commit_logps, commit_logps), (self.step_map, self.step - 1)):
            part = whole[self.alive, self.block]
            part[where] = value
            whole[self.alive, self.block] = part

    def hide(self, where: Bool[Tensor, "A Lb"]) -> None:
        """Mask tokens again."""
        for whole, value in (
            (self.ids, self.owner.denoiser.mask_id),
            (self.commit_logps, 0.0),
            (self.step_map, NEVER),
        ):
            whole[self.alive, self.block] = whole[self.alive, self.block].masked_fill(where, value)

    def drop_finished(self, eos_id: int) -> None:
        """Retire rows whose first EOS has nothing masked before it; their unrevealed tail is EOS from now on."""
        ids, masked = self.ids[self.alive], self.step_map[self.alive] == NEVER
        first_masked = torch.where(masked.any(dim=1), masked.int().argmax(dim=1), ids.size(1))
        done = tokens_to_first_eos(torch.where(masked, -1, ids), eos_id) <= first_masked
        done &= (ids == eos_id).any(dim=1)
        rows = self.alive[done]
        self.ids[rows] = self.ids[rows].masked_fill(masked[done], eos_id)
        self.alive = self.alive[~done]


def count_matched(canvas: Canvas, t: int, to: int) -> None:
    """Reveal the best-scored positions until round(L_block * mask_prob) are left."""
    masked = canvas.masked
    left = round(masked.size(1) * canvas.owner.schedule.mask_prob(to).item())
    count = int(masked[0].sum()) - left  # equal in all rows
    if count == 0:
        return
    drawn = canvas.predict(masked)
    scores = torch.full(masked.shape, float("-inf"), device=masked.device)
    scores[masked] = canvas.owner.selection.score(drawn.logps, drawn.tokens, canvas.generator)
    chosen = torch.zeros_like(masked).scatter(1, scores.topk(count, dim=1).indices, True)
    canvas.reveal(chosen, drawn.tokens[chosen[masked]], drawn.commit_logps[chosen[masked]])


def ancestral(canvas: Canvas, t: int, to: int) -> None:
    """Reveal each masked token with probability (alpha_to - alpha_t) / (1 - alpha_t), by its own uniform number."""
    hidden_after = canvas.owner.masking.hide(canvas.u[canvas.alive, canvas.block], to)
    chosen = canvas.masked & ~hidden_after
    if bool(chosen.any()):
        drawn = canvas.predict(chosen)
        canvas.reveal(chosen, drawn.tokens, drawn.commit_logps)


def renoise(canvas: Canvas, t: int, to: int) -> None:
    """Predict every masked token, then noise the block to the next timestep (all its tokens, old and new)."""
    masked = canvas.masked
    if bool(masked.any()):
        drawn = canvas.predict(masked)
        canvas.reveal(masked, drawn.tokens, drawn.commit_logps)
    block = canvas.ids[canvas.alive, canvas.block]
    no_prompt = torch.zeros_like(block, dtype=torch.bool)
    noisy, _ = canvas.owner.masking.forward_process(
        block, no_prompt, canvas.owner.denoiser.mask_id, seed=canvas.generator, timestep=to
    )
    canvas.hide(noisy == canvas.owner.denoiser.mask_id)


@dataclass(frozen=True)
class Sampler:
    """A step rule.

    Attributes:
        step: (canvas, timestep, next timestep) -> None; writes into the canvas.
        selects: whether a selection rule chooses the positions.
        final: whether a revealed token stays; only then may a row stop early, and only then is its path replayable.
    """

    step: Callable[[Canvas, int, int], None]
    selects: bool = False
    final: bool = True


SAMPLERS: dict[str, Sampler] = {
    "count_matched": Sampler(count_matched, selects=True),
    "ancestral": Sampler(ancestral),
    "renoise": Sampler(renoise, final=False),
}


class DiffusionGenerator:
    """Samples completions by iterative denoising.

    Args:
        denoiser: the model.
        schedule: the levels of the grid.
        masking: hides tokens on that schedule (ancestral, renoise).
        canvas_length: L, tokens; every completion is written on a canvas of this length.
        block_length: tokens of a block, finished left to right; None: the whole canvas at once.
        sampler: a key of `SAMPLERS`.
        selection: a key of `SELECTIONS`, for count_matched.
        temperature: of the token distribution; 0 is greedy.
        eos_id: ends a completion; None: the whole canvas is the completion.

    Raises:
        ValueError: unknown names, blocks that do not divide the canvas, or steps that do not divide into the blocks.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        schedule: AlphaSchedule,
        masking: MaskingStrategy,
        canvas_length: int,
        block_length: int | None = None,
        sampler: str = "count_matched",
        selection: str = "top1",
        temperature: float = 1.0,
        eos_id: int | None = None,
    ):
        block_length = canvas_length if block_length is None else block_length
        if sampler not in SAMPLERS:
            raise ValueError(f"generation.sampler={sampler!r} is unknown; known: {', '.join(SAMPLERS)}")
        if selection not in SELECTIONS:
            raise ValueError(f"generation.selection={selection!r} is unknown; known: {', '.join(SELECTIONS)}")
        if temperature < 0:
            raise ValueError(f"generation.temperature={temperature} must be at least 0 (0 is greedy)")
        if block_length < 1 or canvas_length % block_length:
            raise ValueError(
                f"generation.block_length={block_length} must divide the canvas of {canvas_length} tokens"
            )
        if schedule.max_timesteps % (canvas_length // block_length):
            raise ValueError(
                f"generation.steps={schedule.max_timesteps} must be a multiple of the number of blocks, "
                f"{canvas_length // block_length}"
            )
        if masking.schedule is None and sampler != "count_matched":
            raise ValueError(
                f"generation.sampler={sampler!r} masks by timestep: it needs masking.strategy_type='diffusion'"
            )
        self.denoiser, self.schedule, self.masking = denoiser, schedule, masking
        self.canvas_length, self.block_length = canvas_length, block_length
        self.sampler, self.selection = SAMPLERS[sampler], SELECTIONS[selection]
        self.temperature, self.eos_id = temperature, eos_id

    @property
    def exact(self) -> bool:
        """Whether commit log-probs multiply to the probability of the path (see `Trajectory.exact`)."""
        rule = self.selection if self.sampler.selects else None
        return self.sampler.final and self.temperature > 0 and (rule is None or rule.exact)

    def grid(self) -> list[int]:
        """The timesteps that a block visits, all masked (T + 1) to clean (-1)."""
        stride = self.canvas_length // self.block_length
        return [self.schedule.max_timesteps + 1, *range(self.schedule.max_timesteps, -1, -stride), -1]

    @torch.no_grad()
    def generate(
        self,
        prompt_ids: Int[Tensor, "B P"],
        prompt_mask: Tensor,
        generator: torch.Generator,
        observe: Callable[[int, Tensor], None] | None = None,
    ) -> Trajectory:
        """Write one completion for each prompt row.

        Args:
            prompt_ids: left-padded prompts, (B, P).
            prompt_mask: 0 on padding, (B, P).
            generator: the only source of randomness.
            observe: called as ``observe(timestep, ids)`` after each transition that evaluated the model; ids is the
                canvas (B, L) with masks in place.
        """
        canvas = Canvas(prompt_ids, prompt_mask, self.canvas_length, self, generator)
        grid = self.grid()
        for start in range(0, self.canvas_length, self.block_length):
            canvas.block = slice(start, start + self.block_length)
            for t, to in pairwise(grid):
                if canvas.alive.numel() == 0:
                    break
                before = canvas.step
                self.sampler.step(canvas, t, to)
                if observe is not None and canvas.step > before:
                    observe(to, canvas.ids.clone())
                # Tokens that may change again are settled only at the end of the block, evaluated there or not.
                settled = canvas.step > before if self.sampler.final else to == -1
                if self.eos_id is not None and settled:
                    canvas.drop_finished(self.eos_id)
        return Trajectory(
            ids=canvas.ids,
            step_map=canvas.step_map,
            commit_logps=canvas.commit_logps,
            lengths=tokens_to_first_eos(canvas.ids, self.eos_id),
            stopped=(canvas.ids == self.eos_id).any(dim=1)
            if self.eos_id is not None
            else torch.zeros_like(canvas.forwards, dtype=torch.bool),
            forwards=canvas.forwards,
            exact=self.exact,
            eos_id=self.eos_id,
        )
