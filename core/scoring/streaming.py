"""Many states in groups, at the memory of one group.

A forward that is to be differentiated keeps its activations, M draws M times as many. Here each group of states keeps
none: its forward is made again when the backward pass comes to it (Chen et al. 2016, 1604.06174), so that the peak is
that of one group however many there are. Values and gradients are those of one forward of all; the price is a second
forward. Without gradients this is a loop.
"""

from collections.abc import Callable, Iterator
from itertools import chain, repeat

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from core.denoisers import Denoiser

Evaluate = Callable[[Denoiser, slice], tuple[Tensor, ...]]  # of the states of a group, batch first


def streamed(evaluate: Evaluate, denoiser: Denoiser, states: int, group: int) -> tuple[Tensor, ...]:
    """What ``evaluate`` says of all states, asked for ``group`` of them at a time.

    The model's wrapper sees one forward, the first, as if there were no groups: DDP takes each for the start of a step
    and shares out buffers in it, so neither other groups, of which processes may have different numbers, nor a second
    pass in the middle of a backward may call it. Its hooks sit on the weights, and fire when a weight has its gradient
    from all groups.

    Args:
        evaluate: (denoiser, states) -> tensors whose first axis is over these states.
        denoiser: the model.
        states: their number.
        group: states of one forward.
    """
    inner = denoiser.beneath_wrapper()
    parts = []
    for start in range(0, states, group):
        first = denoiser if start == 0 else inner
        parts.append(_recomputed(evaluate, chain([first], repeat(inner)), slice(start, start + group)))
    return tuple(torch.cat(values) for values in zip(*parts, strict=True))


def _recomputed(evaluate: Evaluate, passes: Iterator[Denoiser], states: slice) -> tuple[Tensor, ...]:
    """The value of the first pass; where gradients are wanted, a second one makes the activations."""
    if not torch.is_grad_enabled():
        return evaluate(next(passes), states)
    return checkpoint(lambda: evaluate(next(passes), states), use_reentrant=False)
