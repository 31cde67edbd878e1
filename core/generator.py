"""The denoising loop: from an all-masked canvas to a completion, on the loss's own schedule.

Each block of the canvas walks down the closed grid from all masked (T + 1) to clean (-1). With n blocks every n-th
timestep is used, so a canvas costs at most T + 2 evaluations however it is cut (LLaDA's convention: `steps` counts the
whole canvas). Where a model counts blocks from the start of the text (SDAR, LLaDA2), its first block on the canvas may
hold the end of the prompt, too, and its last one be cut by the canvas' end, which is then the text's: one block more,
both of them shorter. What a transition does is up to a sampler (`core.sampling.samplers`), how a state is evaluated to
a context (`core.sampling.context`). Transitions that reveal nothing anywhere cost no evaluation.

A row ends at its first EOS once nothing before it is masked; what comes later cannot change the text, so the row is
dropped. The head runs on the masked positions of the current block. A row's random numbers are its own
(`core.sampling.noise`).
"""

from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.alpha_schedule import AlphaSchedule
from core.denoisers import Denoiser
from core.denoisers.attention import leads
from core.masking_strategy import MaskingStrategy
from core.sampling import STALE
from core.sampling.caches import build_context, check_cache
from core.sampling.canvas import LAG, Canvas, Transition, check_blocks, check_blocks_of_model
from core.sampling.counts import counts_named
from core.sampling.noise import REVEAL, RowNoise
from core.sampling.prediction import check_temperature
from core.sampling.samplers import ancestral, check_certainty, check_solves, check_timed, sampler_named
from core.sampling.selection import selection_named
from core.sampling.solvers import solver_named
from core.trajectory import EosIds, Trajectory, ends_text, tokens_to_first_eos


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
        eos_id: ends a completion (`core.trajectory.EosIds`); None: the whole canvas is the completion.
        threshold: for sampler confidence, a probability.
        entropy_bound: for sampler entropy_bound, nats.
        cache: what is remembered between evaluations, one of `CACHES`. ``exact``: what changes nothing, which is the
            finished blocks of a block-causal model; ``off``: nothing; ``prefix``, ``dual``: approximations for a
            bidirectional model, another law than its own.
        cache_refresh: for these, evaluations between two of the whole sequence; None: one a block.
        counts: a key of `COUNTS`, for count_matched.

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
        eos_id: EosIds = None,
        solver: str = "euler",
        threshold: float = 0.9,
        entropy_bound: float = 0.1,
        cache: str = "exact",
        cache_refresh: int | None = None,
        counts: str = "schedule",
    ):
        block_length = canvas_length if block_length is None else block_length
        self.sampler, self.selection = sampler_named(sampler), selection_named(selection)
        self.solver = solver_named(solver)
        check_solves(sampler, solver)
        check_temperature(temperature)
        check_certainty(threshold, entropy_bound)
        check_blocks(canvas_length, block_length, schedule.max_timesteps)
        check_timed(sampler, masking)
        check_cache(cache, cache_refresh, denoiser, sampler)
        check_blocks_of_model(block_length, denoiser)
        self.denoiser, self.schedule, self.masking = denoiser, schedule, masking
        self.canvas_length, self.block_length = canvas_length, block_length
        self.temperature, self.eos_id = temperature, eos_id
        self.threshold, self.entropy_bound = threshold, entropy_bound
        self.cache, self.cache_refresh = cache, cache_refresh
        self._counts = counts_named(counts, sampler)

    @property
    def exact(self) -> bool:
        """Whether commit log-probs are the denoiser's own and multiply to the probability of the path."""
        chosen = not self.sampler.selects or self.selection.exact
        own = self.cache not in STALE or self.cache_refresh == 1
        return self.sampler.final and self.temperature > 0 and chosen and self.solver.exact and own

    def masked_at(self, t: int | Tensor, size: int | None = None) -> int:
        """Tokens of a block that stay masked at a timestep of its walk, where counts say so.

        Args:
            t: a timestep of `grid`.
            size: tokens of the block that are on the canvas; None: all of them.
        """
        elsewhere = 0 if size is None else self.block_length - size
        return max(0, self._masked[int(t)] - elsewhere)

    @cached_property
    def _masked(self) -> dict[int, int]:
        """Tokens of a whole block that stay masked, by timestep."""
        grid = self.grid()
        levels = self.schedule.mask_prob(torch.tensor(grid)).tolist()
        return dict(zip(grid, self._counts(levels, self.block_length), strict=True))

    def grid(self) -> list[int]:
        """The timesteps that a block visits, all masked (T + 1) to clean (-1); of an adaptive sampler, which knows no
        time, the evaluations that a block may still take, at most."""
        if self.sampler.adaptive:
            return list(range(self.block_length, -1, -1))
        stride = self.canvas_length // self.block_length
        return [self.schedule.max_timesteps + 1, *range(self.schedule.max_timesteps, -1, -stride), -1]

    @torch.no_grad()
    def generate(
        self,
        prompt_ids: Int[Tensor, "B P"],
        prompt_mask: Tensor,
        noise: torch.Generator | Int[Tensor, " B"],
        observe: Callable[[int, Tensor], None] | None = None,
    ) -> Trajectory:
        """Write one completion for each prompt row.

        Rows whose blocks begin at the same positions of the canvas walk together; which do does not show.

        Args:
            prompt_ids: left-padded prompts, (B, P).
            prompt_mask: 0 on padding, (B, P).
            noise: the only source of randomness: a key for each row (`core.sampling.noise.draw_keys`), which decides
                its completion whatever the rows beside it, or a generator to draw the keys from.
            observe: called as ``observe(timestep, ids)`` after each transition that evaluated the model; ids is the
                canvas (B, L) with masks in place.
        """
        own = RowNoise(noise, prompt_ids.size(0), self.canvas_length, prompt_ids.device)
        lead = leads(prompt_mask, self.denoiser.text_block)
        found = [0] if self.denoiser.text_block is None else lead.unique().tolist()
        if len(found) == 1:
            return self._write(prompt_ids, prompt_mask, own, found[0], observe)
        whole, parts = self._masks(len(prompt_ids), prompt_ids.device), []
        groups = [(lead == each).nonzero().flatten() for each in found]
        for each, rows in zip(found, groups, strict=True):
            watch = observe and _within(whole, rows, observe)
            parts.append(self._write(prompt_ids[rows], prompt_mask[rows], own.rows(rows), each, watch))
        return Trajectory.cat(parts)[torch.cat(groups).argsort()]

    def blocks(self, lead: int) -> list[slice]:
        """The blocks of a canvas, left to right, the first of which holds so many tokens of the prompt, too: on the
        canvas it is shorter then, and so is the last one."""
        starts = range(-lead, self.canvas_length, self.block_length)
        return [slice(max(start, 0), min(start + self.block_length, self.canvas_length)) for start in starts]

    def _masks(self, rows: int, device: torch.device) -> Int[Tensor, "B L"]:
        return torch.full((rows, self.canvas_length), self.denoiser.mask_id, dtype=torch.int64, device=device)

    def _write(
        self,
        prompt_ids: Int[Tensor, "B P"],
        prompt_mask: Tensor,
        own: RowNoise,
        lead: int,
        observe: Callable[[int, Tensor], None] | None,
    ) -> Trajectory:
        """Complete rows whose blocks begin at the same positions."""
        device = prompt_ids.device
        ids, lag = self._masks(len(prompt_ids), device), 0 if device.type == "cpu" else LAG
        context = build_context(self.cache, self.cache_refresh, self.denoiser, prompt_ids, prompt_mask)
        canvas = Canvas(self, context, own, ids, own.everywhere(REVEAL), lag)
        for block in self.blocks(lead):
            canvas.enter(block)
            self._walk(canvas, observe)
        return self._recorded(canvas, lead)

    def _walk(self, canvas: Canvas, observe: Callable[[int, Tensor], None] | None) -> None:
        """Take the block that the canvas is at down the grid, until every row has stopped."""
        grid = self.grid()
        for t, to, after in zip(grid, grid[1:], [*grid[2:], -1], strict=False):
            if canvas.count == 0:
                return
            before = canvas.step
            self.sampler.step(canvas, Transition(t, to, after))
            evaluated = canvas.step > before
            if observe is not None and evaluated:
                observe(to, canvas.ids.clone())
            # Tokens that may change again are settled only at the end of the block, evaluated there or not.
            settled = evaluated if self.sampler.final else to == grid[-1]
            if self.eos_id is not None and settled:
                canvas.stop_finished(self.eos_id)
            canvas.inform_host(shrinking=self.sampler.final, finish_early=self.sampler.adaptive)

    def _recorded(self, canvas: Canvas, lead: int) -> Trajectory:
        """The rollout that a finished canvas holds."""
        return Trajectory(
            ids=canvas.ids,
            step_map=canvas.step_map,
            commit_logps=canvas.commit_logps,
            lengths=tokens_to_first_eos(canvas.ids, self.eos_id),
            stopped=ends_text(canvas.ids, self.eos_id).any(dim=1),
            forwards=canvas.forwards,
            exact=self.exact,
            eos_id=self.eos_id,
            lead=None if self.denoiser.text_block is None else torch.full_like(canvas.forwards, lead),
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
        noise: torch.Generator | Int[Tensor, " B"],
    ) -> Canvas:
        """Carry partly masked canvases from one timestep each to an earlier one, by the ancestral sampler.

        Rows walk side by side, one timestep a transition, and those with less to go are done earlier: the number of
        transitions is the longest distance, not the sum.

        Args:
            prompt_ids, prompt_mask: (B, P).
            ids: tokens, (B, L); masked where the row's ``start`` says so.
            u: one uniform a token, (B, L): which tokens are masked at which timestep.
            start, stop: timesteps on the closed grid, start >= stop, (B,).
            noise: the only source of randomness, as in `generate`.

        Raises:
            ValueError: prompts that end inside of a block, so that the canvas is more than one.
        """
        if bool(leads(prompt_mask, self.denoiser.text_block).any()):
            raise ValueError("a walk takes the whole canvas as one block, and prompts end inside of a block")
        ids = ids.masked_fill(self.masking.hide(u, start), self.denoiser.mask_id)
        context = build_context("off", None, self.denoiser, prompt_ids, prompt_mask)
        canvas = Canvas(self, context, RowNoise(noise, ids.size(0), ids.size(1), ids.device), ids, u)
        for step in range(int((start - stop).max())):
            t, to, after = ((start - step - ahead).clamp(min=stop) for ahead in range(3))
            ancestral(canvas, Transition(t, to, after))
        return canvas


def _within(
    whole: Int[Tensor, "B L"], rows: Int[Tensor, " n"], observe: Callable[[int, Tensor], None]
) -> Callable[[int, Tensor], None]:
    """For an observer of all rows: what it is told where only some of them move."""

    def watch(timestep: int, ids: Int[Tensor, "n L"]) -> None:
        whole[rows] = ids
        observe(timestep, whole.clone())

    return watch
