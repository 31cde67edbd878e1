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

Clock = Callable[[], float]
Matrices = list[tuple[int, int]]  # (in, out) of weight matrices


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

    Args:
        device, dtype: where and in which type.
        clock: gives seconds; with `time.process_time` a CPU's one thread does not see who else uses it.
    """

    best: Peaks

    def __init__(self, device: torch.device, dtype: torch.dtype, clock: Clock = time.perf_counter):
        self.device, self.dtype, self.clock = device, dtype, clock
        self.best = Peaks(0.0, 0.0)

    def measure(self) -> None:
        """A large square matrix product and a large copy, several times each; a second or less."""
        side, size = SIDE[self.device.type], COPIED[self.device.type]
        left, right = (torch.randn(side, side, device=self.device).to(self.dtype) for _ in range(2))
        product = torch.empty_like(left)
        source = torch.ones(size, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        flops = 2 * side**3 / self._best_seconds(lambda: torch.mm(left, right, out=product))
        bandwidth = 2 * size / self._best_seconds(lambda: target.copy_(source))
        self.best = Peaks(max(flops, self.best.flops), max(bandwidth, self.best.bandwidth))

    def _best_seconds(self, work: Callable[[], Any]) -> float:
        work()
        return min(seconds(work, self.device, self.clock) for _ in range(TRIES))


def seconds(work: Callable[[], Any], device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Time of one run, until the device is done with it."""
    synchronize(device)
    start = clock()
    work()
    synchronize(device)
    return clock() - start


def synchronize(device: torch.device) -> None:
    """Wait until a GPU is done with what it was given; a CPU is done already."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# Models whose feed-forward module has no gate: one matrix in, one out. All others have a gate beside it.
UNGATED = ("bert", "gpt2", "gpt_neox")
EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts")  # what configs call their number


class Costs:
    """Arithmetic and traffic of a transformer's parts: Llama-like, with or without experts, or a masked LM.

    Of experts those count that a position is sent to; as their traffic is theirs alone too, `attainable` stays a lower
    bound.

    Args:
        config: its sizes, under the names of transformers.
        itemsize: bytes of a number.
    """

    feed_forward: Matrices

    def __init__(self, config: PretrainedConfig, itemsize: int):
        self.itemsize, self.layers = itemsize, config.num_hidden_layers
        hidden, heads = config.hidden_size, config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or hidden // heads
        self.queries = heads * head_size
        self.keys = (getattr(config, "num_key_value_heads", None) or heads) * head_size
        # (in, out) of each weight matrix of a layer: queries, keys, values, output; gate, up, down
        self.attention = [(hidden, self.queries), *[(hidden, self.keys)] * 2, (self.queries, hidden)]
        dense, self.experts = _module(config, hidden, _inner(config)), _number_of_experts(config)
        self.dense_layers, self.feed_forward = self.layers, dense
        if self.experts:
            self.dense_layers = getattr(config, "first_k_dense_replace", 0)
            self.active = config.num_experts_per_tok
            self.expert = _module(config, hidden, config.moe_intermediate_size)
            self.always = [(hidden, self.experts), *self.expert * (getattr(config, "n_shared_experts", None) or 0)]
            self.feed_forward = [*self.always, *self.expert * self.active]
        # the feed-forward modules by the number of layers that have them; `feed_forward` is the last layer's
        self.modules = [(self.dense_layers, dense), (self.layers - self.dense_layers, self.feed_forward)]
        # masked LMs have a dense layer between body and head, which is run at all positions
        masked_lm = config.model_type in ("bert", "modernbert")
        self.beside = [(hidden, hidden)] if masked_lm else []
        self.head = (hidden, config.vocab_size)

    @property
    def matrix_weights(self) -> int:
        """Weights of all matrices but embedding and head, experts that a position does not see among them."""
        layers = self.layers * _size(self.attention) + sum(count * _size(module) for count, module in self.modules)
        unseen = (self.experts - self.active) * _size(self.expert) if self.experts else 0
        return layers + (self.layers - self.dense_layers) * unseen + _size(self.beside)

    @property
    def flop_per_position(self) -> int:
        """Of the body's weights; attention comes on top, `attention_flop`."""
        feed_forward = sum(count * _size(module) for count, module in self.modules)
        return 2 * (self.layers * _size(self.attention) + feed_forward + _size(self.beside))

    @property
    def flop_per_head_row(self) -> int:
        """FLOP of projecting one hidden state onto the vocabulary."""
        return 2 * self.head[0] * self.head[1]

    def attention_flop(self, attended: int) -> int:
        """Of one position that attends to so many: scores and weighted sum, in all layers."""
        return self.layers * 4 * attended * self.queries

    def attention_share(self, calls: Calls) -> int:
        """Arithmetic of scores and weighted sums alone."""
        return sum(times * each.positions * self.attention_flop(each.attended) for each, times in calls.body.items())

    def flop(self, calls: Calls) -> float:
        """Arithmetic of everything that was asked."""
        body = sum(
            times * each.positions * (self.flop_per_position + self.attention_flop(each.attended))
            for each, times in calls.body.items()
        )
        spared = calls.positions - sum(times * rows for rows, times in calls.last_feed_forward.items())
        last = 2 * _size(self.feed_forward)
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
        def products(matrices: Matrices) -> float:
            return sum(self._product_seconds(each.positions, *matrix, peaks) for matrix in matrices)

        feed_forward = sum(count * products(module) for count, module in self.modules if count)
        # Scores never leave the chip in a fused kernel: queries in, output out, keys and values in.
        moved = each.rows * (2 * each.fed * self.queries + 2 * each.attended * self.keys) * self.itemsize
        attention = each.positions * 4 * each.attended * self.queries
        layers = self.layers * (products(self.attention) + peaks.seconds(attention, moved))
        return layers + feed_forward + products(self.beside)

    def _product_seconds(self, rows: int, into: int, out: int, peaks: Peaks) -> float:
        moved = (rows * into + into * out + rows * out) * self.itemsize
        return peaks.seconds(2 * rows * into * out, moved)


def _size(matrices: Matrices) -> int:
    return sum(rows * columns for rows, columns in matrices)


def _inner(config: PretrainedConfig) -> int:
    named = (getattr(config, name, None) for name in ("intermediate_size", "n_inner"))
    return next(filter(None, named), 4 * config.hidden_size)  # GPT-2's own rule


def _module(config: PretrainedConfig, hidden: int, inner: int) -> Matrices:
    ways_in = 1 if config.model_type in UNGATED else 2
    return [*[(hidden, inner)] * ways_in, (inner, hidden)]


def _number_of_experts(config: PretrainedConfig) -> int:
    return next(filter(None, (getattr(config, name, None) for name in EXPERTS)), 0)
