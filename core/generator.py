"""The denoising loop: from an all-masked canvas to a completion, on the loss's own schedule.

Each block of the canvas walks down the closed grid from all masked (T + 1) to clean (-1). With n blocks every n-th
timestep is used, so a canvas costs at most T + 2 evaluations however it is cut (LLaDA's convention: `steps` counts the
whole canvas). The samplers share the law that the masked share of the block at timestep t is 1 - alpha_t:

*ancestral*: every masked token is revealed with the transition's probability; the sampler that the NELBO bounds. How
its tokens are drawn is up to a solver (`core.solvers`).
*count_matched*: exactly round(L_block (1 - alpha_t)) tokens stay masked, a selection rule says which (LLaDA's uniform
counts are the linear schedule). *revise*: the same counts, but a visible token that the model doubts is masked again.
*renoise*: predict everything, then noise to the next timestep with `forward_process`.

Transitions that reveal nothing anywhere cost no evaluation. A row ends at its first EOS once nothing before it is
masked; what comes later cannot change the text, so the row is dropped. The head runs on the positions that the step
needs. Sampling is a float32 Gumbel race: bfloat16 noise never leaves the thousand likeliest tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.alpha_schedule import AlphaSchedule
from core.denoiser import Denoiser, tempered_logps
from core.masking_strategy import MaskingStrategy, uniform
from core.selection import SELECTIONS
from core.solvers import SOLVERS, Posteriors, ReverseStep
from core.trajectory import NEVER, Trajectory, tokens_to_first_eos


@dataclass(frozen=True)
class Prediction:
    """What one evaluation gave at R positions: drawn tokens, their log-probs, and all log-probs at temperature 1."""

    tokens: Int[Tensor, " R"]
    commit_logps: Float[Tensor, " R"]
    logps: Float[Tensor, "R V"]


def draw(
    logps: Float[Tensor, "R V"], generator: torch.Generator, greedy: bool
) -> tuple[Int[Tensor, " R"], Float[Tensor, " R"]]:
    """One token a row from normalised log-probabilities, and its own; greedy takes the likeliest, with certainty."""
    if greedy:
        return logps.argmax(dim=-1), logps.new_zeros(logps.size(0))
    race = torch.empty(logps.shape, device=generator.device).exponential_(generator=generator)
    tokens = (logps - race.to(logps.device).log()).argmax(dim=-1)
    return tokens, logps.gather(1, tokens.unsqueeze(1)).squeeze(1)


def sample(logits: Float[Tensor, "R V"], temperature: float, generator: torch.Generator) -> Prediction:
    """Draw one token a row from softmax(logits / temperature); temperature 0 takes the likeliest, with certainty."""
    tokens, commit_logps = draw(tempered_logps(logits, temperature), generator, greedy=temperature == 0)
    return Prediction(tokens, commit_logps, torch.log_softmax(logits, dim=-1))


@dataclass(frozen=True)
class Transition:
    """From a timestep to the next one of a walk, and the one that follows; one for all rows or one per row, (B,)."""

    t: int | Int[Tensor, " B"]
    to: int | Int[Tensor, " B"]
    after: int | Int[Tensor, " B"]


class Canvas:
    """The rows being written: their tokens, when each was revealed, and what is left of the current block.

    The samplers below see this object; it belongs to one call of `DiffusionGenerator`.
    """

    def __init__(
        self,
        owner: "DiffusionGenerator",
        prompt_ids: Int[Tensor, "B P"],
        prompt_mask: Tensor,
        generator: torch.Generator,
        ids: Int[Tensor, "B L"],
        u: Float[Tensor, "B L"],
    ):
        self.owner, self.generator = owner, generator
        self.prompt_ids, self.prompt_mask = prompt_ids, prompt_mask
        self.ids = ids
        # One uniform a token: the ancestral sampler reveals it when the mask probability falls below.
        self.u = u
        self.step_map = torch.full_like(ids, NEVER)
        self.commit_logps = torch.zeros(ids.shape, device=ids.device)
        self.forwards = torch.zeros(ids.size(0), dtype=torch.int64, device=ids.device)
        self.alive = torch.ones(ids.size(0), dtype=torch.bool, device=ids.device)
        self.step = 0
        self.block = slice(0, ids.size(1))
        self.memory: Posteriors | None = None

    def enter(self, block: slice) -> None:
        """Go on to a block."""
        self.block, self.memory = block, None

    @property
    def masked(self) -> Bool[Tensor, "B Lb"]:
        """Positions of the current block that are still masked, in rows that are still being written."""
        return (self.ids[:, self.block] == self.owner.denoiser.mask_id) & self.alive.unsqueeze(1)

    def evaluate(self, positions: Bool[Tensor, "B Lb"]) -> Float[Tensor, "R V"]:
        """Logits at the given positions of the block: one evaluation of the rows that have any."""
        asked = positions.any(dim=1)
        ids = torch.cat([self.prompt_ids, self.ids], dim=1)[asked]
        attention_mask = torch.cat([self.prompt_mask, torch.ones_like(self.ids)], dim=1)[asked]
        rows = torch.zeros_like(ids, dtype=torch.bool)
        prompt_length = self.prompt_ids.size(1)
        rows[:, prompt_length + self.block.start : prompt_length + self.block.stop] = positions[asked]
        self.forwards += asked
        self.step += 1
        return self.owner.denoiser.logits(ids, attention_mask, rows)

    def predict(self, positions: Bool[Tensor, "B Lb"]) -> Prediction:
        """Evaluate the denoiser and draw a token at each of the given positions."""
        return sample(self.evaluate(positions), self.owner.temperature, self.generator)

    def reveal(self, where: Bool[Tensor, "B Lb"], tokens: Tensor, commit_logps: Tensor) -> None:
        """Commit tokens (one for each True, in order) in the step just evaluated."""
        self.ids[:, self.block][where] = tokens
        self.commit_logps[:, self.block][where] = commit_logps
        self.step_map[:, self.block][where] = self.step - 1

    def hide(self, where: Bool[Tensor, "B Lb"]) -> None:
        """Mask tokens again."""
        self.ids[:, self.block][where] = self.owner.denoiser.mask_id
        self.commit_logps[:, self.block][where] = 0.0
        self.step_map[:, self.block][where] = NEVER

    def drop_finished(self, eos_id: int) -> None:
        """Retire rows whose first EOS has nothing masked before it; their unrevealed tail is EOS from now on."""
        masked = self.ids == self.owner.denoiser.mask_id
        first_masked = torch.where(masked.any(dim=1), masked.int().argmax(dim=1), self.ids.size(1))
        done = self.alive & (self.ids == eos_id).any(dim=1) & (tokens_to_first_eos(self.ids, eos_id) <= first_masked)
        self.ids[masked & done.unsqueeze(1)] = eos_id
        self.alive &= ~done


class CanvasStep(ReverseStep):
    """A transition of a canvas, handed to a solver."""

    def __init__(self, canvas: Canvas, transition: Transition):
        schedule, masking, u = canvas.owner.schedule, canvas.owner.masking, canvas.u[:, canvas.block]
        after, soon_after = masking.hide(u, transition.to), masking.hide(u, transition.after)
        start, stop = (
            schedule.mask_prob(torch.as_tensor(t, device=u.device)).expand(u.size(0))
            for t in (transition.t, transition.to)
        )
        self.canvas = canvas
        self.reveal = canvas.masked & ~after
        self.soon = canvas.masked & after & ~soon_after
        self.width = start - stop
        tiny = torch.finfo(self.width.dtype).tiny  # a zero-width transition reveals nothing
        self.time = (start.unsqueeze(1) - u) / self.width.clamp(min=tiny).unsqueeze(1)
        self.memory = canvas.memory

    def posterior(self, where: Bool[Tensor, "B L"]) -> Float[Tensor, "R V"]:
        return tempered_logps(self.canvas.evaluate(where), self.canvas.owner.temperature).exp()

    def commit(self, where: Bool[Tensor, "B L"], probs: Float[Tensor, "R V"]) -> None:
        owner = self.canvas.owner
        self.canvas.reveal(where, *draw(probs.log(), self.canvas.generator, greedy=owner.temperature == 0))


def count_matched(canvas: Canvas, transition: Transition) -> None:
    """Reveal the best-scored positions until round(L_block * mask_prob) are left."""
    masked = canvas.masked
    left = canvas.owner.masked_at(transition.to)
    count = int(masked.sum(dim=1).max()) - left  # equal in all rows that are still being written
    if count <= 0:
        return
    drawn = canvas.predict(masked)
    scores = torch.full(masked.shape, float("-inf"), device=masked.device)
    scores[masked] = canvas.owner.selection.score(drawn.logps, drawn.tokens, canvas.generator)
    chosen = torch.zeros_like(masked).scatter(1, scores.topk(count, dim=1).indices, True) & masked
    canvas.reveal(chosen, drawn.tokens[chosen[masked]], drawn.commit_logps[chosen[masked]])


def ancestral(canvas: Canvas, transition: Transition) -> None:
    """Reveal each masked token with probability (alpha_to - alpha_t) / (1 - alpha_t), by its own uniform number."""
    step = CanvasStep(canvas, transition)
    if bool(step.reveal.any()):
        canvas.owner.solver.step(step)
        canvas.memory = step.memory


def renoise(canvas: Canvas, transition: Transition) -> None:
    """Predict every masked token, then noise the block to the next timestep (all its tokens, old and new)."""
    masked = canvas.masked
    if bool(masked.any()):
        drawn = canvas.predict(masked)
        canvas.reveal(masked, drawn.tokens, drawn.commit_logps)
    block = canvas.ids[:, canvas.block]
    no_prompt = torch.zeros_like(block, dtype=torch.bool)
    noisy, _ = canvas.owner.masking.forward_process(
        block, no_prompt, canvas.owner.denoiser.mask_id, seed=canvas.generator, timestep=transition.to
    )
    canvas.hide((noisy == canvas.owner.denoiser.mask_id) & canvas.alive.unsqueeze(1))


def revise(canvas: Canvas, transition: Transition) -> None:
    """Predict every token, visible ones too, and mask again what the model believes in least, until
    round(L_block * mask_prob) are masked.

    A position is scored by the log-probability of the token that stands there, old or just drawn: remasking by
    confidence as in P2 (Peng et al. 2025, 2502.03540, self-planning). Visible tokens are positions that the bound does
    not train; `core.scheduled_sampling` says how to.
    """
    masked = canvas.masked
    left = canvas.owner.masked_at(transition.to)
    rows = canvas.alive.unsqueeze(1).expand_as(masked)
    if left == masked.size(1) or (left == 0 and not bool(masked.any())):
        return
    drawn = canvas.predict(rows)
    hidden, stands = masked[rows], canvas.ids[:, canvas.block][rows]
    stands = torch.where(hidden, drawn.tokens, stands)
    scores = torch.zeros(masked.shape, device=masked.device)
    scores[rows] = drawn.logps.gather(1, stands.unsqueeze(1)).squeeze(1)
    doubted = torch.zeros_like(masked).scatter(1, scores.topk(left, dim=1, largest=False).indices, True)
    canvas.reveal(masked, drawn.tokens[hidden], drawn.commit_logps[hidden])
    canvas.hide(doubted & rows)


@dataclass(frozen=True)
class Sampler:
    """A step rule.

    Attributes:
        step: (canvas, transition) -> None; writes into the canvas.
        selects: whether a selection rule chooses the positions.
        solves: whether a solver draws the tokens.
        timed: whether tokens are masked by timestep.
        final: whether a revealed token stays; only then may a row stop early, and only then is its path replayable.
    """

    step: Callable[[Canvas, Transition], None]
    selects: bool = False
    solves: bool = False
    timed: bool = True
    final: bool = True


SAMPLERS: dict[str, Sampler] = {
    "count_matched": Sampler(count_matched, selects=True, timed=False),
    "ancestral": Sampler(ancestral, solves=True),
    "renoise": Sampler(renoise, final=False),
    "revise": Sampler(revise, timed=False, final=False),
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
        solver: a key of `SOLVERS`, for ancestral.
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
        solver: str = "euler",
    ):
        block_length = canvas_length if block_length is None else block_length
        if sampler not in SAMPLERS:
            raise ValueError(f"generation.sampler={sampler!r} is unknown; known: {', '.join(SAMPLERS)}")
        if selection not in SELECTIONS:
            raise ValueError(f"generation.selection={selection!r} is unknown; known: {', '.join(SELECTIONS)}")
        if solver not in SOLVERS:
            raise ValueError(f"generation.solver={solver!r} is unknown; known: {', '.join(SOLVERS)}")
        if solver != "euler" and not SAMPLERS[sampler].solves:
            raise ValueError(f"generation.solver={solver!r} needs generation.sampler='ancestral', got {sampler!r}")
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
        if masking.schedule is None and SAMPLERS[sampler].timed:
            raise ValueError(
                f"generation.sampler={sampler!r} masks by timestep: it needs masking.strategy_type='diffusion'"
            )
        self.denoiser, self.schedule, self.masking = denoiser, schedule, masking
        self.canvas_length, self.block_length = canvas_length, block_length
        self.sampler, self.selection, self.solver = SAMPLERS[sampler], SELECTIONS[selection], SOLVERS[solver]
        self.temperature, self.eos_id = temperature, eos_id

    @property
    def exact(self) -> bool:
        """Whether commit log-probs are the denoiser's own and multiply to the probability of the path."""
        chosen = not self.sampler.selects or self.selection.exact
        return self.sampler.final and self.temperature > 0 and chosen and self.solver.exact

    def masked_at(self, t: int | Int[Tensor, ""]) -> int:
        """Tokens of a block that stay masked at a timestep where counts are matched to the schedule."""
        return round(self.block_length * self.schedule.mask_prob(t).item())

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
        shape, device = (prompt_ids.size(0), self.canvas_length), prompt_ids.device
        ids = torch.full(shape, self.denoiser.mask_id, dtype=torch.int64, device=device)
        u = uniform(*shape, generator=generator, device=device)
        canvas = Canvas(self, prompt_ids, prompt_mask, generator, ids, u)
        grid = self.grid()
        transitions = [Transition(*levels) for levels in zip(grid, grid[1:], [*grid[2:], -1], strict=False)]
        for start in range(0, self.canvas_length, self.block_length):
            canvas.enter(slice(start, start + self.block_length))
            for transition in transitions:
                if not bool(canvas.alive.any()):
                    break
                before = canvas.step
                self.sampler.step(canvas, transition)
                if observe is not None and canvas.step > before:
                    observe(int(transition.to), canvas.ids.clone())
                # Tokens that may change again are settled only at the end of the block, evaluated there or not.
                settled = canvas.step > before if self.sampler.final else transition.to == -1
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

    @torch.no_grad()
    def denoise(
        self,
        prompt_ids: Int[Tensor, "B P"],
        prompt_mask: Tensor,
        ids: Int[Tensor, "B L"],
        u: Float[Tensor, "B L"],
        start: Int[Tensor, " B"],
        stop: Int[Tensor, " B"],
        generator: torch.Generator,
    ) -> Canvas:
        """Carry partly masked canvases from one timestep each to an earlier one, by the ancestral sampler.

        Rows walk side by side, one timestep a transition, and those with less to go are done earlier: the number of
        transitions is the longest distance, not the sum.

        Args:
            prompt_ids, prompt_mask: (B, P).
            ids: tokens, (B, L); masked where the row's ``start`` says so.
            u: one uniform a token, (B, L): which tokens are masked at which timestep.
            start, stop: timesteps on the closed grid, start >= stop, (B,).
            generator: the only source of randomness.
        """
        masked = self.masking.hide(u, start)
        canvas = Canvas(self, prompt_ids, prompt_mask, generator, ids.masked_fill(masked, self.denoiser.mask_id), u)
        for step in range(int((start - stop).max())):
            t, to, after = ((start - step - ahead).clamp(min=stop) for ahead in range(3))
            ancestral(canvas, Transition(t, to, after))
        return canvas
