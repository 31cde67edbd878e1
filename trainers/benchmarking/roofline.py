"""How much arithmetic a model's calls are, and how fast the machine could do it at best.

A forward is a row of matrix products. Each takes at least flop / peak rate, and at least bytes moved / bandwidth, so
no forward is faster than the sum over its products of the larger of the two (Williams et al. 2009, the roofline).
Norms, activations, softmax, sampling and every copy are left out: what they cost is what keeps a generator below 1.
Both rates are measured in the same run, on the same device, dtype and threads.

MFU (Chowdhery et al. 2022, 2204.02311, appendix B) = flop done / (seconds x peak rate).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig

from trainers.benchmarking.counters import Calls

TRIES = 5  # the best counts: a peak is what the machine can do undisturbed
SIDE = {"cpu": 1536, "cuda": 8192}  # of the square matrices: large enough that their own traffic does not count
COPIED = {"cpu": 2**28, "cuda": 2**31}  # bytes: far beyond any cache


@dataclass(frozen=True)
class Peaks:
    """What the machine does at best: flop a second in a matrix product, bytes a second in a copy (read + written)."""

    flops: float
    bandwidth: float

    def seconds(self, flop: float, moved: float) -> float:
        """Least time for so much arithmetic on so many bytes."""
        return max(flop / self.flops, moved / self.bandwidth)


class PeakMeter:
    """Peak rates of a device with torch's present number of threads: the best of all measurements so far.

    On a shared machine a peak is seen only while nobody disturbs, so `measure` is called in every round of a
    benchmark, beside the work that is compared with it. ``best`` is valid from the first call on.
    """

    best: Peaks

    def __init__(self, device: torch.device, dtype: torch.dtype):
        self.device, self.dtype = device, dtype
        self.best = Peaks(0.0, 0.0)

    def measure(self) -> None:
        """A large square matrix product and a large copy, several times each; a second or less."""
        side, size = SIDE[self.device.type], COPIED[self.device.type]
        left, right = (torch.randn(side, side, device=self.device).to(self.dtype) for _ in range(2))
        product = torch.empty_like(left)
        source = torch.ones(size, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        flops = 2 * side**3 / _best_seconds(lambda: torch.mm(left, right, out=product), self.device)
        bandwidth = 2 * size / _best_seconds(lambda: target.copy_(source), self.device)
        self.best = Peaks(max(flops, self.best.flops), max(bandwidth, self.best.bandwidth))


def _best_seconds(work: Callable[[], Any], device: torch.device) -> float:
    work()
    return min(seconds(work, device) for _ in range(TRIES))


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Wall time of one run, until the device is done with it."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Costs:
    """Arithmetic and traffic of a Llama-like model's parts.

    Args:
        config: its sizes.
        itemsize: bytes of a number.
    """

    def __init__(self, config: PretrainedConfig, itemsize: int):
        self.itemsize, self.layers = itemsize, config.num_hidden_layers
        hidden, inner = config.hidden_size, config.intermediate_size
        head_size = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
        self.queries, self.keys = config.num_attention_heads * head_size, config.num_key_value_heads * head_size
        # (in, out) of each weight matrix of a layer: queries, keys, values, output; gate, up, down
        self.feed_forward = [*[(hidden, inner)] * 2, (inner, hidden)]
        self.matrices = [
            (hidden, self.queries),
            *[(hidden, self.keys)] * 2,
            (self.queries, hidden),
            *self.feed_forward,
        ]
        self.head = (hidden, config.vocab_size)

    @property
    def flop_per_position(self) -> int:
        """Of the body's weights; attention comes on top, `attention_flop`."""
        return self.layers * sum(2 * rows * columns for rows, columns in self.matrices)

    @property
    def flop_per_head_row(self) -> int:
        return 2 * self.head[0] * self.head[1]

    def attention_flop(self, attended: int) -> int:
        """Of one position that attends to so many: scores and weighted sum, in all layers."""
        return self.layers * 4 * attended * self.queries

    def flop(self, calls: Calls) -> float:
        """Arithmetic of everything that was asked."""
        body = sum(
            times * each.positions * (self.flop_per_position + self.attention_flop(each.attended))
            for each, times in calls.body.items()
        )
        spared = calls.positions - sum(times * rows for rows, times in calls.last_feed_forward.items())
        last = 2 * sum(rows * columns for rows, columns in self.feed_forward)
        return body - spared * last + calls.head_rows * self.flop_per_head_row

    def attainable(self, calls: Calls, peaks: Peaks) -> float:
        """Least seconds in which these calls could have been served."""
        body = sum(times * self._body_seconds(each, peaks) for each, times in calls.body.items())
        head = sum(times * self._product_seconds(rows, *self.head, peaks) for rows, times in calls.head.items())
        whole = sum(times * self._feed_forward_seconds(each.positions, peaks) for each, times in calls.body.items())
        last = sum(times * self._feed_forward_seconds(rows, peaks) for rows, times in calls.last_feed_forward.items())
        return body - whole + last + head

    def _feed_forward_seconds(self, rows: int, peaks: Peaks) -> float:
        return sum(self._product_seconds(rows, *matrix, peaks) for matrix in self.feed_forward)

    def _body_seconds(self, each: Any, peaks: Peaks) -> float:
        products = sum(self._product_seconds(each.positions, *matrix, peaks) for matrix in self.matrices)
        # Scores never leave the chip in a fused kernel: queries in, output out, keys and values in.
        moved = each.rows * (2 * each.fed * self.queries + 2 * each.attended * self.keys) * self.itemsize
        attention = each.positions * 4 * each.attended * self.queries
        return self.layers * (products + peaks.seconds(attention, moved))

    def _product_seconds(self, rows: int, into: int, out: int, peaks: Peaks) -> float:
        moved = (rows * into + into * out + rows * out) * self.itemsize
        return peaks.seconds(2 * rows * into * out, moved)
