"""States of a recorded rollout: before the first step of each of the chosen *runs* of steps, whose tokens are scored.

A row has S steps, numbered 0..S-1 without gaps, each of which revealed something in it. A run [start, stop) of steps
hides what was revealed at ``start`` or later and scores what was revealed before ``stop``. `REPLAYS` says which runs:

    drawn       K of the S steps without replacement, each weighted S / K: an unbiased estimate of the sum over all
    segments    K runs of neighbouring steps, every token scored once: biased, with less noise (d2, Wang et al. 2025,
                2509.21474; TraceRL, Wang et al. 2025, 2509.06949)
    all         every step

The *blocks* of a block-causal model are replayed side by side: n blocks are n rows of their own, which choose among
equally many steps, so that a block that took fewer has empty ones. A draw then weighs the same in all blocks, and K of
S drawn steps are a simple random sample in each.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.scoring.draws import Noise
from core.trajectory import NEVER


def dense_steps(step_map: Int[Tensor, "R b"]) -> tuple[Int[Tensor, "R b"], Int[Tensor, " R"]]:
    """Number each row's own reveal steps 0, 1, ... S-1 without gaps (a batch step may reveal nothing in a row).

    Returns:
        The new step map, `NEVER` where no step revealed the token, (R, b); and S, at least 1, (R,).
    """
    revealed = step_map < NEVER
    last = int(step_map[revealed].max()) if bool(revealed.any()) else 0
    occurs = (step_map.unsqueeze(2) == torch.arange(last + 1)).any(dim=1)  # (R, S)
    rank = occurs.cumsum(dim=1) - 1
    return torch.where(revealed, rank.gather(1, step_map.clamp(max=last)), NEVER), occurs.sum(dim=1).clamp(min=1)


# ---- which steps ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Runs:
    """Runs of steps to score, [start, stop) each.

    Attributes:
        start, stop: (R, K); beyond S where a row has no such run.
        weight: what a run counts in the sum over all steps, (R,).
    """

    start: Int[Tensor, "R K"]
    stop: Int[Tensor, "R K"]
    weight: Float[Tensor, " R"]

    def in_order_of_time(self) -> "Runs":
        """The same runs, the earliest of each row first."""
        return Runs(self.start.sort(dim=1).values, self.stop.sort(dim=1).values, self.weight)

    def merges(self, step_map: Int[Tensor, "R b"]) -> Bool[Tensor, " R"]:
        """Whether a run holds several steps of its row; ``step_map`` is from `dense_steps`."""
        steps = torch.where(step_map < NEVER, step_map + 1, 0).amax(dim=1, keepdim=True)
        return (self.stop.minimum(steps) - self.start > 1).any(dim=1)


def drawn(steps: Int[Tensor, " R"], count: int, noise: Noise, most: int) -> Runs:
    """K steps without replacement, weighted S / K."""
    start = _shuffled(steps, noise, most)[:, :count]
    return Runs(start, start + 1, steps / steps.clamp(max=count))


def every(steps: Int[Tensor, " R"], count: int, noise: Noise, most: int) -> Runs:
    """All steps; there is no K."""
    start = _shuffled(steps, noise, most)[:, : int(steps.max())]
    return Runs(start, start + 1, torch.ones(len(steps)))


def segments(steps: Int[Tensor, " R"], count: int, noise: Noise, most: int) -> Runs:
    """K runs that cover all steps, as long as one another but for one step; nothing is left to chance."""
    edges = torch.arange(count + 1) * steps.unsqueeze(1) // count  # (R, K+1)
    return Runs(edges[:, :-1], edges[:, 1:], torch.ones(len(steps)))


def segments_of(steps: Int[Tensor, " R"], size: int) -> Runs:
    """As many runs of ``size`` steps as cover all."""
    start = torch.arange(0, int(steps.max()), size).expand(len(steps), -1)
    return Runs(start, start + size, torch.ones(len(steps)))


def _shuffled(steps: Int[Tensor, " R"], noise: Noise, most: int) -> Int[Tensor, "R most"]:
    """Each row's own steps in random order, by random keys, those that it does not have last."""
    missing = torch.arange(most) >= steps.unsqueeze(1)
    return noise(most).masked_fill(missing, math.inf).argsort(dim=1)


# loss.replay: (S of each row (R,), K, noise, upper limit of S in any batch) -> runs
REPLAYS: dict[str, Callable[[Tensor, int, Noise, int], Runs]] = {"drawn": drawn, "segments": segments, "all": every}


# ---- side by side ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blocks:
    """A canvas as n blocks of b tokens that are replayed side by side: B rows of L tokens are R = B * n rows of b.

    Where the first block of a row holds tokens of its prompt, the canvas lies in one block more, and in part of the
    first and of the last. All rows of such a model have that one, so that what is drawn depends on no other row.

    Attributes:
        rows: B.
        count: n.
        length: b.
        place: where each token of the canvas stands in its row's n * b, (B, L); None: n * b = L, and in order.
    """

    rows: int
    count: int
    length: int
    place: Int[Tensor, "B L"] | None = None

    @staticmethod
    def of(step_map: Int[Tensor, "B L"], block_length: int | None, lead: Int[Tensor, " B"] | None) -> "Blocks":
        """Blocks of ``block_length`` tokens; None: the canvas is one block. ``lead``: see `Trajectory`.

        Raises:
            ValueError: the blocks do not divide the canvas.
        """
        rows, length = step_map.shape
        if block_length is None:
            return Blocks(rows, 1, length)
        if length % block_length:
            raise ValueError(f"causal_block_length={block_length}: expected a divisor of the canvas, {length} tokens")
        if lead is None:
            return Blocks(rows, length // block_length, block_length)
        place = torch.arange(length) + lead.cpu().unsqueeze(1)
        return Blocks(rows, length // block_length + 1, block_length, place)

    def apart(self, step_map: Int[Tensor, "B L"]) -> Int[Tensor, "R b"]:
        """Every block as a row of its own; `NEVER` where it does not lie on the canvas."""
        if self.place is not None:
            everywhere = step_map.new_full((self.rows, self.count * self.length), NEVER)
            step_map = everywhere.scatter(1, self.place, step_map)
        return step_map.reshape(self.rows * self.count, self.length)

    def beside(self, states: Bool[Tensor, "R M b"]) -> Bool[Tensor, "B M L"]:
        """The inverse, for states: each holds one of every block."""
        beside = states.unflatten(0, (self.rows, self.count)).transpose(1, 2).flatten(2)
        if self.place is None:
            return beside
        return beside.gather(2, self.place.unsqueeze(1).expand(-1, beside.size(1), -1))

    def longest(self, steps: Int[Tensor, " R"]) -> Int[Tensor, " R"]:
        """For every block, the steps of that block of its row which took most."""
        return steps.view(self.rows, self.count).amax(dim=1).repeat_interleave(self.count)

    def noise(self, noise: Noise) -> Noise:
        """Uniforms for B rows as uniforms for R."""
        return lambda *shape: noise(self.count, *shape).flatten(0, 1)


def replayed_states(step_map: Int[Tensor, "R b"], runs: Runs, blocks: Blocks) -> dict[str, Tensor]:
    """The fields of `Draws` that runs of a rollout's steps make.

    Args:
        step_map: from `dense_steps`, (R, b).
        runs: which to score; of one weight in all blocks of a row.
        blocks: the R rows as B canvases.
    """
    merged = runs.merges(step_map).view(blocks.rows, blocks.count).any(dim=1)
    step_map, start, stop = step_map.unsqueeze(1), runs.start.unsqueeze(2), runs.stop.unsqueeze(2)
    weight = runs.weight[:: blocks.count]
    return {
        "hidden": blocks.beside(step_map >= start),
        "scored": blocks.beside((step_map >= start) & (step_map < stop)),
        "weight": weight.unsqueeze(1).expand(-1, start.size(1)),
        "variance_factor": torch.where(merged, 1.0, 1 - 1 / weight).float(),  # 1 - K / S of drawn steps
    }
