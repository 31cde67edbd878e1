"""Uniform numbers of a rollout, by address: the key of a row, a purpose, a timestep and a position.

A row's numbers depend on nothing else: not on the rows beside it, their order, which of them have stopped, or the
device. So a prompt's completion is the same in every batch, on every number of processes, up to rounding of the model.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

# what a number is for
TOKEN, REVEAL, POSITION, RENOISE = range(4)

# SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators"), in two's complement
GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
FIRST, SECOND = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)


def _shifted(z: Int[Tensor, "*shape"], bits: int) -> Int[Tensor, "*shape"]:
    """Logical shift to the right: torch's is arithmetic."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def splitmix64(key: Int[Tensor, "*shape"], index: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The number at ``index`` (0, 1, ...) of the stream that starts at ``key``; all 64 bits are random."""
    z = key + (index + 1) * GOLDEN
    z = (z ^ _shifted(z, 30)) * FIRST
    z = (z ^ _shifted(z, 27)) * SECOND
    return z ^ _shifted(z, 31)


class RowNoise:
    """The numbers of B rows.

    Args:
        keys: one random 64-bit integer a row, (B,), or a generator to draw them from.
        rows: B.
        width: positions of a row, at most.
        device: where the numbers are wanted.
    """

    def __init__(self, keys: Int[Tensor, " B"] | torch.Generator, rows: int, width: int, device: torch.device):
        if isinstance(keys, torch.Generator):
            keys = draw_keys(rows, keys)
        if keys.shape != (rows,) or keys.dtype != torch.int64:
            raise ValueError(f"keys of shape {tuple(keys.shape)}, {keys.dtype}: expected ({rows},), torch.int64")
        self.keys, self.width = keys.to(device), width

    def rows(self, rows: Int[Tensor, " n"]) -> "RowNoise":
        """The numbers of some rows."""
        return RowNoise(self.keys[rows], len(rows), self.width, self.keys.device)

    def uniform(
        self,
        purpose: int,
        t: int | Int[Tensor, "*shape"],
        rows: Int[Tensor, "*#shape"],
        columns: Int[Tensor, "*#shape"],
    ) -> Float[Tensor, "*shape"]:
        """float64 uniforms in [0, 1), multiples of 2^-52, for a purpose at timestep t of rows and columns, which
        broadcast."""
        index = (t * 4 + purpose) * self.width + columns
        bits = splitmix64(*torch.broadcast_tensors(self.keys[rows], index))
        return _shifted(bits, 12).double() * 2.0**-52

    def everywhere(self, purpose: int) -> Float[Tensor, "B L"]:
        """One number for every position of every row, at timestep 0."""
        rows, columns = (torch.arange(size, device=self.keys.device) for size in (len(self.keys), self.width))
        return self.uniform(purpose, 0, rows.unsqueeze(1), columns.unsqueeze(0))


def draw_keys(rows: int, generator: torch.Generator) -> Int[Tensor, " B"]:
    """One key a row; the first n of a longer draw are those of a shorter one."""
    ends = torch.iinfo(torch.int64)
    return torch.randint(ends.min, ends.max, (rows,), generator=generator, device=generator.device)
