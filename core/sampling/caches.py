"""Contexts that remember keys and values, and run the model on part of the sequence only.

Of a *block-causal* model what a finished block computed never changes: `FinishedBlocks` is exact. In a *bidirectional*
model everything depends on everything: `PrefixCache` and `DualCache` (Fast-dLLM, Wu et al. 2025, 2505.22618) go on
with keys and values of an earlier state. What they sample is another law than the model's, and each token's
log-probability under it is recorded as always, so that a loss can correct for it.
"""

from abc import abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.denoisers import CachedDenoiser, Denoiser, KeyValues
from core.denoisers.attention import bidirectional, block_causal, leads
from core.names import check_known
from core.sampling.context import Context, WholeCanvas
from core.sampling.samplers import SAMPLERS


class CachedContext(Context):
    """A context with a memory: keys and values of some positions, for the rows that `held` lists."""

    denoiser: CachedDenoiser

    def __init__(self, denoiser: CachedDenoiser, prompt_ids: Int[Tensor, "B P"], prompt_mask: Tensor):
        super().__init__(denoiser, prompt_ids, prompt_mask)
        self.held = torch.arange(len(prompt_ids), device=prompt_ids.device)
        self.memory: KeyValues | None = None
        self._selected: tuple[Tensor, KeyValues] | None = None

    def _hold(self, rows: Int[Tensor, " n"], memory: KeyValues) -> None:
        """Remember, from now on, these rows."""
        self.held, self.memory, self._selected = rows, memory, None

    def _memory_of(self, rows: Int[Tensor, " n"]) -> KeyValues:
        """The memory of some of the rows held."""
        assert self.memory is not None
        if len(rows) == len(self.held):
            return self.memory
        if self._selected is None or self._selected[0] is not rows:  # the same tensor as long as nobody drops out
            slot = torch.zeros(len(self.group), dtype=torch.int64, device=rows.device)
            slot[self.held] = torch.arange(len(self.held), device=rows.device)
            self._selected = rows, self.memory.rows(slot[rows])
        return self._selected[1]

    def _run(
        self,
        ids: Int[Tensor, "B L"],
        rows: Int[Tensor, " n"],
        span: slice,
        columns: Int[Tensor, "n K"],
        visible: Bool[Tensor, "n Q N"] | None,
        memory: KeyValues | None,
    ) -> tuple[Float[Tensor, "R V"], KeyValues]:
        """The model on a span of [prompt | canvas], with columns of the canvas to predict."""
        tokens = torch.cat([self.prompt_ids, ids], dim=1)[rows, span]
        positions = torch.arange(span.start, span.stop, device=ids.device).expand(len(rows), -1)
        at = self.prompt_length + columns - span.start
        return self.denoiser.logits_with(tokens, positions, visible, memory, at)


class FinishedBlocks(CachedContext):
    """Exact memory of a block-causal model: the prompt, encoded once for each run of equal prompts, and the finished
    blocks. A finished block is encoded in the first evaluation of the next one.

    Where a block holds the end of the prompt and the first tokens of the canvas, it is remembered when it is finished
    like any other: positions of the canvas are counted from below 0 then.

    Args:
        denoiser, prompt_ids, prompt_mask: see `Context`; the denoiser has a ``block_length``.
        fused: False encodes a finished block by itself: the same numbers, one forward more.

    Raises:
        ValueError: a denoiser without blocks, or prompts that end at different places of a block.
    """

    def __init__(
        self, denoiser: CachedDenoiser, prompt_ids: Int[Tensor, "B P"], prompt_mask: Tensor, fused: bool = True
    ):
        super().__init__(denoiser, prompt_ids, prompt_mask)
        if denoiser.block_length is None:
            raise ValueError("the denoiser is not block-causal: expected a block_length, got None")
        self.block_length, self.fused = denoiser.block_length, fused
        text_block = denoiser.text_block
        found = [0] if text_block is None else leads(prompt_mask, text_block).unique().tolist()
        if len(found) > 1:
            raise ValueError(f"prompts end after {found} tokens of a block: expected the same number in every row")
        self.lead = found[0]  # tokens of the prompt in the first block of the canvas
        self.stored = -self.lead  # canvas tokens in the memory

    def logits(
        self, ids: Int[Tensor, "B L"], rows: Int[Tensor, " n"], columns: Int[Tensor, "n K"], block: slice
    ) -> tuple[Float[Tensor, "D V"], Int[Tensor, " R"] | None]:
        """One forward from the end of what is stored to the end of the block; it stores blocks finished meanwhile."""
        if self.memory is None:
            return self._begin(ids, rows, columns, block)
        begin = self._begin_of(block)
        if not self.fused:
            self._store(ids, begin)
        start = self.stored
        logits, written = self._behind(ids, rows, slice(start, block.stop), columns)
        if start < begin:
            self._hold(rows, self._memory_of(rows).cat(written.select(slice(0, begin - start))))
            self.stored = begin
        return logits, None

    def logits_where(
        self, ids: Int[Tensor, "B L"], rows: Int[Tensor, " n"], where: Bool[Tensor, "n Lb"], block: slice
    ) -> Float[Tensor, "R V"]:
        """Logits at any R positions of the block, after everything before the block is stored for all rows held."""
        # Not all rows may be asked, but others may be later: what they will need is stored for all.
        if self.memory is None:
            self._begin(ids, self.held, self.held.new_zeros(len(ids), 0), block)
        self._store(ids, self._begin_of(block))
        return super().logits_where(ids, rows, where, block)

    def _begin_of(self, block: slice) -> int:
        """The canvas position of a block's first token, which may be the prompt's."""
        return block.start if block.start > 0 else -self.lead

    def _begin(
        self, ids: Int[Tensor, "B L"], rows: Int[Tensor, " n"], columns: Int[Tensor, "n K"], block: slice
    ) -> tuple[Float[Tensor, "D V"], Int[Tensor, " R"] | None]:
        """Prompt and first block in one forward; a prompt is encoded once and serves its whole run."""
        asked, at, of = self.share(rows, columns)
        whole = self.seen(asked, 0)
        visible = block_causal(whole, block.stop, self.block_length, self.denoiser.prompt_in_blocks)
        span = slice(0, self.prompt_length + block.stop)
        logits, written = self._run(ids, asked, span, at, visible, None)
        prompt = written.select(slice(0, self.prompt_length - self.lead))
        self._hold(rows, prompt if of is None else prompt.rows(self.group))
        return logits, of

    def _store(self, ids: Int[Tensor, "B L"], stop: int) -> None:
        """Encode what is finished up to a position of the canvas."""
        if self.stored < stop:
            nothing = self.held.new_zeros(len(self.held), 0)
            _, written = self._behind(ids, self.held, slice(self.stored, stop), nothing)
            self._hold(self.held, self._memory_of(self.held).cat(written))
            self.stored = stop

    def _behind(
        self, ids: Int[Tensor, "B L"], rows: Int[Tensor, " n"], span: slice, columns: Int[Tensor, "n K"]
    ) -> tuple[Float[Tensor, "R V"], KeyValues]:
        """Run a span of the canvas behind what is stored."""
        length, visible = span.stop - span.start, None
        if self.prompt_mask is not None or length > self.block_length:
            visible = block_causal(self.seen(rows, span.start), length, self.block_length)[:, -length:]
        span = slice(self.prompt_length + span.start, self.prompt_length + span.stop)
        return self._run(ids, rows, span, columns, visible, self._memory_of(rows))


class StaleCache(CachedContext):
    """Keys and values of the positions outside of a span, as they were at the last evaluation of the whole sequence.

    Args:
        denoiser, prompt_ids, prompt_mask: see `Context`.
        refresh: evaluations between two of the whole sequence; 1 is exact; None: one at the start of each block.
    """

    def __init__(
        self, denoiser: CachedDenoiser, prompt_ids: Int[Tensor, "B P"], prompt_mask: Tensor, refresh: int | None = None
    ):
        super().__init__(denoiser, prompt_ids, prompt_mask)
        self.refresh, self.age = refresh, 0
        self.start: int | None = None  # of the block that the memory was made for

    @abstractmethod
    def span(self, block: slice, length: int) -> slice:
        """What is run between refreshes, of a canvas of so many tokens."""

    def logits(
        self, ids: Int[Tensor, "B L"], rows: Int[Tensor, " n"], columns: Int[Tensor, "n K"], block: slice
    ) -> tuple[Float[Tensor, "D V"], Int[Tensor, " R"] | None]:
        """A forward of the whole sequence at the start of a block or at ``refresh``, else of the span on old keys."""
        span = self.span(block, ids.size(1))
        begin, end = self.prompt_length + span.start, self.prompt_length + span.stop
        whole = self.prompt_length + ids.size(1)
        if self.start != block.start or self.age == self.refresh:
            asked, at, of = self.share(rows, columns)
            visible = None if self.prompt_mask is None else bidirectional(self.seen(asked, ids.size(1)))
            logits, written = self._run(ids, asked, slice(0, whole), at, visible, None)
            outside = written.select(slice(0, begin)).cat(written.select(slice(end, whole)))
            self._hold(rows, outside if of is None else outside.rows(self.group))
            self.start, self.age = block.start, 1
            return logits, of
        self.age += 1
        visible = None
        if self.prompt_mask is not None:  # padding comes first in the memory, as in the sequence
            visible = self.seen(rows, ids.size(1)).bool().unsqueeze(1).expand(-1, end - begin, -1)
        logits, _ = self._run(ids, rows, slice(begin, end), columns, visible, self._memory_of(rows))
        return logits, None


class PrefixCache(StaleCache):
    """Remembers the prompt and the blocks before; runs the block and what lies behind it."""

    def span(self, block: slice, length: int) -> slice:
        """From the start of the block to the end of the canvas."""
        return slice(block.start, length)


class DualCache(StaleCache):
    """Remembers everything but the block."""

    def span(self, block: slice, length: int) -> slice:
        """The block alone, whatever the length of the canvas."""
        return block


# generation.cache: what may be remembered at the price of another law
STALE: dict[str, type[StaleCache]] = {"prefix": PrefixCache, "dual": DualCache}
CACHES = ("exact", "off", "prefix", "dual")  # the stale ones among them


def check_cache(cache: str, refresh: int | None, denoiser: Denoiser, sampler: str) -> None:
    """Raise a ValueError for an unknown name, or for a stale cache that model or sampler cannot use."""
    check_known("generation.cache", cache, CACHES)
    if cache not in STALE:
        return
    if SAMPLERS[sampler].solves:
        allowed = ", ".join(name for name, known in SAMPLERS.items() if not known.solves)
        raise ValueError(f"generation.cache={cache!r}: expected generation.sampler one of {allowed}, got {sampler!r}")
    if refresh is not None and refresh < 1:
        raise ValueError(f"generation.cache_refresh={refresh}: expected at least 1, or None: once a block")
    if not isinstance(denoiser, CachedDenoiser):
        raise ValueError(f"generation.cache={cache!r}: the denoiser cannot be run on a part of the sequence")
    if denoiser.block_length is not None:
        raise ValueError(
            f"generation.cache={cache!r}: a block-causal model has an exact cache: expected 'exact' or 'off'"
        )


def build_context(
    cache: str, refresh: int | None, denoiser: Denoiser, prompt_ids: Int[Tensor, "B P"], prompt_mask: Tensor
) -> Context:
    """The context that a name of `CACHES` stands for: ``exact`` remembers what the model's attention allows."""
    if isinstance(denoiser, CachedDenoiser):
        if cache in STALE:
            return STALE[cache](denoiser, prompt_ids, prompt_mask, refresh)
        if cache == "exact" and denoiser.block_length is not None:
            return FinishedBlocks(denoiser, prompt_ids, prompt_mask)
    return WholeCanvas(denoiser, prompt_ids, prompt_mask)
