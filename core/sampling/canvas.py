"""The rows that a sampler writes on: tokens, when each was revealed, what is left, and who is still writing.

A step of a sampler has sizes that the schedule gives, never the values of a tensor, so that nobody waits for an
accelerator: which rows have stopped is known at once on the device, and `LAG` steps later on the host, which then
leaves them out of the evaluations. A row that has stopped is not written to: the delay changes nothing but the cost.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.alpha_schedule import AlphaSchedule
from core.denoisers import Denoiser
from core.denoisers.denoiser import tempered_logps
from core.masking_strategy import MaskingStrategy
from core.sampling.context import Context
from core.sampling.noise import TOKEN, RowNoise
from core.sampling.prediction import Prediction, invert
from core.sampling.selection import Selection
from core.sampling.solvers import Posteriors, ReverseStep, Solver
from core.trajectory import NEVER, EosIds, ends_text, fill_id, tokens_to_first_eos

LAG = 2  # enough queued work that an accelerator is never idle


def check_blocks(canvas_length: int, block_length: int, steps: int) -> None:
    """Raise a ValueError unless the blocks divide the canvas, and the steps divide into the blocks."""
    if block_length < 1 or canvas_length % block_length:
        raise ValueError(f"generation.block_length={block_length} must divide the canvas of {canvas_length} tokens")
    blocks = canvas_length // block_length
    if steps % blocks:
        raise ValueError(f"generation.steps={steps} must be a multiple of the number of blocks, {blocks}")


def check_blocks_of_model(block_length: int, denoiser: Denoiser) -> None:
    """Raise a ValueError unless the model, if it is block-causal, has blocks of this length."""
    if denoiser.block_length not in (None, block_length):
        raise ValueError(
            f"generation.block_length={block_length}: expected {denoiser.block_length}, that of the block-causal model"
        )


@runtime_checkable
class Settings(Protocol):
    """What a canvas and the samplers read of their `DiffusionGenerator`."""

    denoiser: Denoiser
    schedule: AlphaSchedule
    masking: MaskingStrategy
    selection: Selection
    solver: Solver
    temperature: float
    eos_id: EosIds
    threshold: float
    entropy_bound: float

    def masked_at(self, t: int | Tensor, size: int | None = None) -> int:
        """Tokens of a block, ``size`` of which are on the canvas, that stay masked at t where counts say so."""
        ...


class HostReader:
    """Small tensors for the host, without waiting for the device: what comes back is ``lag`` readings old."""

    def __init__(self, lag: int):
        self.lag = lag
        self._pending: deque[tuple[Tensor, torch.Event | None]] = deque()

    def read(self, values: Tensor) -> Tensor | None:
        """Hand in a tensor that nobody will change; get an earlier one, on the CPU, or None if there is none yet."""
        copied, copy = None, values.to("cpu", non_blocking=True)
        if values.device.type != "cpu":
            copied = torch.Event(values.device)
            copied.record()
        self._pending.append((copy, copied))
        if len(self._pending) <= self.lag:
            return None
        copy, copied = self._pending.popleft()
        if copied is not None:
            copied.synchronize()
        return copy


@dataclass(frozen=True)
class Transition:
    """From a timestep to the next one of a walk, and the one that follows; one for all rows or one per row, (B,)."""

    t: int | Int[Tensor, " B"]
    to: int | Int[Tensor, " B"]
    after: int | Int[Tensor, " B"]


class Canvas:
    """B rows of L tokens after prompts of P, worked on block by block.

    Args:
        settings: the generator.
        context: how a state is evaluated.
        noise: the rows' uniform numbers.
        ids: tokens and masks to begin with, (B, L); written to.
        u: one uniform a token, (B, L): the ancestral sampler reveals it when the mask probability falls below.
        lag: age of what the host knows, in steps.

    Attributes:
        rows, count: index of the rows that are evaluated, (n,), and n.
        most: masked tokens that any of these has in the block, at most.
        step: evaluations so far.
    """

    def __init__(
        self,
        settings: Settings,
        context: Context,
        noise: RowNoise,
        ids: Int[Tensor, "B L"],
        u: Float[Tensor, "B L"],
        lag: int = 0,
    ):
        self.settings, self.context, self.noise = settings, context, noise
        self.ids, self.u = ids, u
        self.step_map = torch.full_like(ids, NEVER)
        self.commit_logps = torch.zeros(ids.shape, device=ids.device)
        self.forwards = torch.zeros(ids.size(0), dtype=torch.int64, device=ids.device)
        self.alive = torch.ones(ids.size(0), dtype=torch.bool, device=ids.device)
        self.step = 0
        self.memory: Posteriors | None = None
        self._reader = HostReader(lag)
        self._living = self._unfinished = self._known = torch.arange(ids.size(0))
        self.rows = self._known.to(ids.device)
        self.enter(slice(0, ids.size(1)))

    # ---- blocks, and what the host knows ---------------------------------------------------------------------------

    def enter(self, block: slice) -> None:
        """Go on to a block."""
        self.block, self.memory = block, None
        self.most, self._unfinished = block.stop - block.start, self._living
        self._evaluate_only(self._living)

    @property
    def hidden(self) -> Bool[Tensor, "B Lb"]:
        """Positions of the block that are masked."""
        return self.ids[:, self.block] == self.settings.denoiser.mask_id

    @property
    def masked(self) -> Bool[Tensor, "B Lb"]:
        """Those of them in rows that are still being written."""
        return self.hidden & self.alive.unsqueeze(1)

    def stop_finished(self, eos_id: int | tuple[int, ...]) -> None:
        """Rows whose first EOS has nothing masked before it have stopped; their unrevealed tail is filled from now
        on."""
        masked = self.ids == self.settings.denoiser.mask_id
        first_masked = torch.where(masked.any(dim=1), masked.int().argmax(dim=1), self.ids.size(1))
        ended = ends_text(self.ids, eos_id).any(dim=1)
        done = self.alive & ended & (tokens_to_first_eos(self.ids, eos_id) <= first_masked)
        self.ids = torch.where(masked & done.unsqueeze(1), fill_id(eos_id), self.ids)
        self.alive = self.alive & ~done

    def inform_host(self, shrinking: bool, finish_early: bool) -> None:
        """Let the host learn, a little later, which rows are left and how much of the block is masked in them.

        Args:
            shrinking: masked tokens only become fewer within a block, so that an old count is an upper limit.
            finish_early: a row with nothing masked in the block waits for the others.
        """
        left = torch.where(self.alive, self.hidden.sum(dim=1), -1)
        known = self._reader.read(torch.cat([left, left.new_full((1,), self.block.start)]))
        if known is None:
            return
        left, start = known[:-1], int(known[-1])
        self._living = (left >= 0).nonzero().flatten()
        self._unfinished = (left > 0).nonzero().flatten()
        current = start == self.block.start and (shrinking or self._reader.lag == 0)
        if current:
            self.most = int(left.max())
        self._evaluate_only(self._unfinished if current and finish_early else self._living)

    @contextmanager
    def passing_over_finished(self) -> Iterator[None]:
        """Meanwhile leave out rows with nothing masked in the block, where the host knows of them in time."""
        if self._reader.lag == 0:
            self._evaluate_only(self._unfinished)
        yield
        self._evaluate_only(self._living)

    def _evaluate_only(self, rows: Int[Tensor, " n"]) -> None:
        self.count = len(rows)
        if not torch.equal(rows, self._known):  # else the same tensor: a context tells by it that nobody left
            self._known, self.rows = rows, rows.to(self.ids.device, non_blocking=True)

    # ---- the same number of positions in every row -----------------------------------------------------------------

    def columns(self, count: int) -> Int[Tensor, "n K"]:
        """``count`` positions of the block in each row, ascending, masked ones first to be taken."""
        if count == self.block.stop - self.block.start:
            return torch.arange(self.block.start, self.block.stop, device=self.ids.device).expand(self.count, -1)
        hidden = self.hidden[self.rows]
        chosen = hidden.sort(dim=1, descending=True, stable=True).indices[:, :count]
        return chosen.sort(dim=1).values + self.block.start

    def at(self, values: Tensor, columns: Int[Tensor, "n K"]) -> Tensor:
        """What a (B, L) tensor holds at columns of the rows, (n, K)."""
        return values[self.rows.unsqueeze(1), columns]

    def open(self, columns: Int[Tensor, "n K"]) -> Bool[Tensor, "n K"]:
        """Which of the columns are masked in rows that are being written."""
        return (self.at(self.ids, columns) == self.settings.denoiser.mask_id) & self.alive[self.rows].unsqueeze(1)

    def predict(self, columns: Int[Tensor, "n K"], t: int | Tensor) -> Prediction:
        """Evaluate the rows at columns, in the transition that leaves t."""
        logits, of = self.context.logits(self.ids, self.rows, columns, self.block)
        self.forwards.index_add_(0, self.rows, self.open(columns).any(dim=1).long())
        self.step += 1
        draws = self.settings.temperature > 0
        return Prediction(
            logits, self.settings.temperature, self.chance(TOKEN, columns, t).flatten() if draws else None, of
        )

    def chance(self, purpose: int, columns: Int[Tensor, "n K"], t: int | Tensor) -> Float[Tensor, "n K"]:
        """One uniform number a position, for the transition that leaves t."""
        return self.noise.uniform(purpose, t, self.rows.unsqueeze(1), columns)

    def reveal(self, columns: Int[Tensor, "n K"], chosen: Bool[Tensor, "n K"], prediction: Prediction) -> None:
        """Commit what was drawn at the chosen columns that are open."""
        where = chosen & self.open(columns)
        self._put(self.ids, columns, where, prediction.tokens.view(columns.shape))
        self._put(self.commit_logps, columns, where, prediction.commit_logps.view(columns.shape).float())
        # the row's own step: neither other rows nor evaluations that a late host asked for in vain are counted
        self._put(self.step_map, columns, where, self.forwards[self.rows].unsqueeze(1) - 1)

    def hide(self, columns: Int[Tensor, "n K"], chosen: Bool[Tensor, "n K"]) -> None:
        """Mask tokens again, in rows that are being written."""
        where = chosen & self.alive[self.rows].unsqueeze(1)
        self._put(self.ids, columns, where, self.settings.denoiser.mask_id)
        self._put(self.commit_logps, columns, where, 0.0)
        self._put(self.step_map, columns, where, NEVER)

    def _put(
        self, target: Tensor, columns: Int[Tensor, "n K"], where: Bool[Tensor, "n K"], values: Tensor | float | int
    ) -> None:
        target[self.rows.unsqueeze(1), columns] = torch.where(where, values, self.at(target, columns))


class CanvasStep(ReverseStep):
    """A transition of a canvas, handed to a solver. How many tokens it reveals is up to chance, and the host looks."""

    def __init__(self, canvas: Canvas, transition: Transition):
        schedule, masking = canvas.settings.schedule, canvas.settings.masking
        u = canvas.u[:, canvas.block]
        after, soon_after = masking.hide(u, transition.to), masking.hide(u, transition.after)
        start, stop = (
            schedule.mask_prob(torch.as_tensor(t, device=u.device)).expand(u.size(0))
            for t in (transition.t, transition.to)
        )
        self.canvas, self.t = canvas, transition.t
        self.reveal = canvas.masked & ~after
        self.soon = canvas.masked & after & ~soon_after
        self.width = start - stop
        tiny = torch.finfo(self.width.dtype).tiny  # a zero-width transition reveals nothing
        self.time = (start.unsqueeze(1) - u) / self.width.clamp(min=tiny).unsqueeze(1)
        self.memory = canvas.memory

    def posterior(self, where: Bool[Tensor, "B L"]) -> Float[Tensor, "R V"]:
        """Tempered probabilities (R, V); evaluates, and counts as a forward, only rows that ``where`` asks for."""
        canvas = self.canvas
        asked = where.any(dim=1)
        canvas.forwards += asked
        canvas.step += 1
        rows = asked.nonzero().flatten()
        logits = canvas.context.logits_where(canvas.ids, rows, where[rows], canvas.block)
        return tempered_logps(logits, canvas.settings.temperature).exp()

    def commit(self, where: Bool[Tensor, "B L"], probs: Float[Tensor, "R V"]) -> None:
        """Write a token at each position: by the row's noise from ``probs``, or the likeliest one at temperature 0."""
        canvas = self.canvas
        rows, columns = where.nonzero(as_tuple=True)
        columns = columns + canvas.block.start
        if canvas.settings.temperature == 0:
            tokens, logps = probs.argmax(dim=1), probs.new_zeros(len(probs))
        else:
            t = self.t[rows] if isinstance(self.t, Tensor) else self.t
            u = canvas.noise.uniform(TOKEN, t, rows, columns)
            tokens = invert(probs, u, torch.arange(len(probs), device=probs.device))
            logps = probs.gather(1, tokens.unsqueeze(1)).squeeze(1).log()
        canvas.ids[rows, columns] = tokens
        canvas.commit_logps[rows, columns] = logps.float()
        canvas.step_map[rows, columns] = canvas.step - 1
