"""The seam for key-value caches: run a model on a *span* of positions that attends to the stored keys and values of
other positions beside its own.

Every cache is made of this one operation. Block-causal models: the memory holds the prompt and the finished blocks,
and is exact. Bidirectional models: a prefix cache keeps what stands before the current block, a dual cache also what
stands behind it (Fast-dLLM, Wu et al. 2025, 2505.22618); both go stale as the canvas changes.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.denoisers.denoiser import Denoiser


@dataclass(frozen=True)
class KeyValues:
    """Keys and values of N positions in every layer, after position encoding, so that their order does not matter.

    Attributes:
        keys: one tensor a layer, (B, heads, N, d).
        values: one tensor a layer, (B, heads, N, d).
    """

    keys: tuple[Float[Tensor, "B H N d"], ...]
    values: tuple[Float[Tensor, "B H N e"], ...]

    def __len__(self) -> int:
        """N."""
        return self.keys[0].size(2)

    def select(self, columns: slice | Int[Tensor, " n"]) -> "KeyValues":
        """The entries of some positions, the same ones in every row: a slice (no copy) or their numbers."""
        return self._each(lambda stored: stored[:, :, columns])

    def rows(self, rows: slice | Tensor) -> "KeyValues":
        """The entries of some rows: a slice, a mask or an index. An index may repeat rows: a prompt is stored once and
        serves its whole group."""
        return self._each(lambda stored: stored[rows])

    def cat(self, other: "KeyValues") -> "KeyValues":
        """These positions and those of ``other``."""
        keys, values = zip(self.keys, other.keys, strict=True), zip(self.values, other.values, strict=True)
        return KeyValues(
            tuple(torch.cat(pair, dim=2) for pair in keys), tuple(torch.cat(pair, dim=2) for pair in values)
        )

    def _each(self, change: Callable[[Tensor], Tensor]) -> "KeyValues":
        return KeyValues(tuple(map(change, self.keys)), tuple(map(change, self.values)))


class CachedDenoiser(Denoiser):
    """A denoiser that can be run on a span of positions."""

    @abstractmethod
    def logits_with(
        self,
        ids: Int[Tensor, "B Q"],
        positions: Int[Tensor, "B Q"],
        visible: Bool[Tensor, "B Q K"] | None,
        memory: KeyValues | None,
        columns: Int[Tensor, "B C"],
    ) -> tuple[Float[Tensor, "R V"], KeyValues]:
        """Run the span: float32 logits at some of its positions, and its own keys and values.

        Args:
            ids: tokens of the span, masks in place, (B, Q).
            positions: where they stand in the whole sequence, from 0, padding counted, (B, Q).
            visible: what each position of the span sees of the N positions of ``memory`` and the Q of the span, in
                this order, (B, Q, N + Q), at least one of them (`core.denoisers.attention` builds such rules); None:
                everything.
            memory: stored keys and values of N other positions; None: N = 0.
            columns: which positions of the span to predict, ascending in each row, none twice, (B, C); C may be 0.

        Returns:
            Logits (B * C, V), row by row, as in `Denoiser.logits`; and keys and values of the span, (B, heads, Q, d) a
            layer.

        Raises:
            ValueError: the model cannot be run on a span.
        """
