"""How a canvas's state is evaluated: which positions the model is run on, and what the others are remembered by."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.denoisers import Denoiser
from core.denoisers.attention import block_causal


class Context(ABC):
    """Evaluates canvases behind fixed prompts.

    Args:
        denoiser: the model.
        prompt_ids, prompt_mask: left-padded prompts, (B, P).
    """

    def __init__(self, denoiser: Denoiser, prompt_ids: Int[Tensor, "B P"], prompt_mask: Tensor):
        self.denoiser, self.prompt_ids, self.prompt_length = denoiser, prompt_ids, prompt_ids.size(1)
        # Without padding there is no mask: kernels are faster then, and some stacks wait to look at a mask's values.
        self.prompt_mask = None if bool(prompt_mask.all()) else prompt_mask
        self.group, self.leaders = runs(prompt_ids, prompt_mask)
        self.untouched = True

    @abstractmethod
    def logits(
        self, ids: Int[Tensor, "B L"], rows: Int[Tensor, " n"], columns: Int[Tensor, "n K"], block: slice
    ) -> tuple[Float[Tensor, "D V"], Int[Tensor, " R"] | None]:
        """Logits of some rows at K columns of the block each, R = n K.

        Before anything is written, rows with the same prompt are in the same state: it is evaluated once for each run
        of equal neighbours, such as the completions of one GRPO group.

        Returns:
            logits (D, V), and which of their rows holds for each position, (R,); None: each its own, D = R.
        """

    def logits_where(
        self, ids: Int[Tensor, "B L"], rows: Int[Tensor, " n"], where: Bool[Tensor, "n Lb"], block: slice
    ) -> Float[Tensor, "R V"]:
        """Logits at R positions of the block, any number in each row; waits for the device to know how many."""
        self.untouched = False
        most = int(where.sum(dim=1).max())
        columns = where.sort(dim=1, descending=True, stable=True).indices[:, :most].sort(dim=1).values
        logits, _ = self.logits(ids, rows, columns + block.start, block)
        return logits[where.gather(1, columns).flatten()]

    def share(
        self, rows: Int[Tensor, " n"], columns: Int[Tensor, "n K"]
    ) -> tuple[Int[Tensor, " m"], Int[Tensor, "m K"], Int[Tensor, " R"] | None]:
        """The rows to evaluate, their columns, and which of the results hold for each position."""
        shared = self.untouched and len(self.leaders) < len(rows) == len(self.group)
        self.untouched = False
        if not shared:
            return rows, columns, None
        count = columns.size(1)
        of = (self.group.unsqueeze(1) * count + torch.arange(count, device=columns.device)).flatten()
        return self.leaders, columns[self.leaders], of

    def seen(self, rows: Int[Tensor, " n"], length: int) -> Tensor:
        """0 on padding, over the prompt and ``length`` tokens of the canvas, (n, P + length); below 0: over the prompt
        without its end."""
        prompt = torch.ones_like(self.prompt_ids) if self.prompt_mask is None else self.prompt_mask
        prompt = prompt[rows, : self.prompt_length + min(length, 0)]
        return torch.cat([prompt, prompt.new_ones(len(rows), max(length, 0))], dim=1)


class WholeCanvas(Context):
    """Runs the model on everything that a position of the block may see: exact for every model. A bidirectional one
    sees prompt and canvas, a block-causal one nothing behind the block."""

    def logits(
        self, ids: Int[Tensor, "B L"], rows: Int[Tensor, " n"], columns: Int[Tensor, "n K"], block: slice
    ) -> tuple[Float[Tensor, "D V"], Int[Tensor, " R"] | None]:
        """Logits (D, V) by one forward of all that the block may see, once for neighbours with the same prompt."""
        rows, columns, of = self.share(rows, columns)
        states, attention_mask = self._states(ids, rows, block)
        return self.denoiser.logits_at(states, attention_mask, self.prompt_length + columns), of

    def logits_where(
        self, ids: Int[Tensor, "B L"], rows: Int[Tensor, " n"], where: Bool[Tensor, "n Lb"], block: slice
    ) -> Float[Tensor, "R V"]:
        """Logits (R, V) at exactly the positions asked for, without filling rows up to the same number."""
        self.untouched = False
        states, attention_mask = self._states(ids, rows, block)
        asked = torch.zeros_like(states, dtype=torch.bool)
        asked[:, self.prompt_length + block.start : self.prompt_length + block.stop] = where
        return self.denoiser.logits(states, attention_mask, asked)

    def _states(
        self, ids: Int[Tensor, "B L"], rows: Int[Tensor, " n"], block: slice
    ) -> tuple[Int[Tensor, "n N"], Tensor | None]:
        length = self.denoiser.block_length
        if length is None:
            states = torch.cat([self.prompt_ids, ids], dim=1)[rows]
            return states, None if self.prompt_mask is None else self.seen(rows, ids.size(1))
        states = torch.cat([self.prompt_ids, ids[:, : block.stop]], dim=1)[rows]
        return states, block_causal(self.seen(rows, 0), block.stop, length, self.denoiser.prompt_in_blocks)


def runs(prompt_ids: Int[Tensor, "B P"], prompt_mask: Tensor) -> tuple[Int[Tensor, " B"], Int[Tensor, " U"]]:
    """Neighbours with the same prompt: the number of each row's run, (B,), and the first row of each, (U,)."""
    seen = torch.stack([prompt_ids, prompt_mask.long()], dim=2)
    first = torch.ones(len(seen), dtype=torch.bool, device=seen.device)
    first[1:] = (seen[1:] != seen[:-1]).flatten(1).any(dim=1)
    return first.cumsum(dim=0) - 1, first.nonzero().flatten()
