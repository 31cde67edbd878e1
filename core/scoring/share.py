"""The part of a global batch that a process draws for: what the whole batch would have got there."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.masking_strategy import uniform


def unchanged(values: Tensor) -> Tensor:
    """All rows there are, where there is one process."""
    return values


@dataclass(frozen=True)
class Share:
    """One of several equal parts of a global batch, row by row; by default the whole of it.

    Attributes:
        rank: which part.
        processes: how many.
        gather: of a tensor with equal shapes on every process, the rows of all in the order of their ranks; a
            collective, to be called by all of them.
    """

    rank: int = 0
    processes: int = 1
    gather: Callable[[Tensor], Tensor] = unchanged

    def uniform(self, rows: int, *shape: int, generator: torch.Generator) -> Float[Tensor, "B *D"]:
        """float64 uniforms on the CPU for the rows of this part, out of those for the global batch, given equal
        generators everywhere."""
        return uniform(self.processes, rows, *shape, generator=generator, device="cpu")[self.rank]

    def largest(self, number: int) -> int:
        """The largest of all processes' numbers; a collective."""
        return number if self.processes == 1 else int(self.gather(torch.tensor([number])).max())

    def own(self, rows: int) -> slice:
        """Which rows of a global batch are this part's, at so many a part."""
        return slice(self.rank * rows, (self.rank + 1) * rows)


WHOLE = Share()
