"""A model's forward in part: its head, and its last position-wise module, run where something is predicted alone.

Both are changed *inside* the model's own forward, for the length of one call, so that wrappers that hook the outermost
forward (DDP, FSDP) stay in charge. ``rows`` says where: a mask (B, N), or columns (B, K).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.denoisers.projection import project
from core.denoisers.vocabulary import Never


def logits_of(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """The logits of one forward: what the model returns, or holds as ``.logits`` in what it returns.

    Raises:
        TypeError: it returns neither.
    """
    match model(**inputs):
        case Tensor() as logits:
            return logits
        case object(logits=Tensor() as logits):
            return logits
        case other:
            raise TypeError(
                f"the model's forward returned {type(other).__name__}: expected a tensor of logits (B, N, V), or an "
                "object with such a tensor as .logits"
            )


def checkpoints_activations(model: nn.Module) -> bool:
    """Whether layers run again in the backward pass, as models of transformers say of themselves; others do not."""
    match model:
        case object(is_activation_checkpointing=bool(on)):
            return on
    return False


def pick(hidden: Float[Tensor, "B N d"], rows: Tensor) -> Float[Tensor, "R d"]:
    """Of (B, N, d), what stands at ``rows``: a mask (B, N), or columns (B, K)."""
    if rows.dtype == torch.bool:
        return hidden[rows]
    return hidden.gather(1, rows.unsqueeze(2).expand(-1, -1, hidden.size(2))).flatten(0, 1)


@contextmanager
def head_at(head: nn.Module, rows: Tensor) -> Iterator[None]:
    """Let ``head`` see only the hidden states at ``rows``, so that the forward returns logits (R, V)."""
    handle = head.register_forward_pre_hook(lambda _, args: (pick(args[0], rows), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def scoring_head_at(
    head: nn.Module, rows: Tensor, targets: Tensor, never: Never, temperature: float
) -> Iterator[None]:
    """Let ``head`` return `of_targets` of its logits, (R, 2), in their place: exchanged rather than hooked, as a hook
    comes when all logits are there."""

    def instead(forward: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        parameters = [parameter for parameter in head.parameters() if parameter.requires_grad]  # whole by now, if ever
        return project(forward, parameters, pick(hidden, rows), targets, never, temperature)

    with replaced_forward(head, instead):
        yield


@contextmanager
def feed_forward_at(feed_forward: nn.Module | None, rows: Tensor) -> Iterator[None]:
    """Let a position-wise module run at ``rows`` alone, and give 0 elsewhere, where nobody reads its output."""
    if feed_forward is None:
        yield
        return
    with replaced_forward(feed_forward, lambda forward, hidden: put_back(forward(pick(hidden, rows)), hidden, rows)):
        yield


def put_back(values: Float[Tensor, "R d"], hidden: Float[Tensor, "B N d"], rows: Tensor) -> Float[Tensor, "B N d"]:
    """The inverse of `pick`, with 0 where nothing was picked."""
    empty = values.new_zeros(hidden.shape)
    if rows.dtype == torch.bool:
        return empty.masked_scatter(rows.unsqueeze(2), values)
    return empty.scatter(1, rows.unsqueeze(2).expand(-1, -1, hidden.size(2)), values.view(*rows.shape, hidden.size(2)))


@contextmanager
def replaced_forward(
    module: nn.Module, instead: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
) -> Iterator[None]:
    """Let ``instead(forward, hidden)`` stand for a module's forward. Wrappers that hook the module see one call."""
    forward, own = module.forward, vars(module).get("forward")
    module.forward = lambda hidden: instead(forward, hidden)
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own
