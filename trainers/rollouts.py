"""Completions for a list of prompts, in batches of prompts of like length."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel
from trl.trainer.utils import pad

from core.flow_matching import FlowGenerator
from core.generator import DiffusionGenerator
from core.trajectory import Trajectory


def roll_out(
    sampler: DiffusionGenerator | FlowGenerator,
    prompts: Sequence[Sequence[int]],
    keys: Int[Tensor, " B"],
    pad_id: int,
    batch_size: int,
    device: torch.device,
) -> Trajectory:
    """One completion a prompt, in the order of the prompts.

    Batches are formed by length, so that there is little padding and often none; repetitions of a prompt stay
    neighbours and share their first evaluation. Each completion depends on its own key: the batches do not show.

    Args:
        sampler: what completes.
        prompts: token ids, B of them, none empty.
        keys: one random key a prompt, (B,).
        pad_id: fills shorter prompts up on their left.
        batch_size: prompts of one forward.
        device: where the model is.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # stable
    parts = []
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        ids = [torch.tensor(prompts[i]) for i in rows]
        padded = pad(ids, padding_value=pad_id, padding_side="left")
        mask = pad([torch.ones_like(own) for own in ids], padding_value=0, padding_side="left")
        parts.append(sampler.generate(padded.to(device), mask.to(device), keys[rows]))
    return Trajectory.cat(parts)[torch.tensor(order, device=device).argsort()]


_compiled: WeakKeyDictionary[torch.nn.Module, Callable] = WeakKeyDictionary()


@contextmanager
def compiled_body(model: PreTrainedModel, wanted: bool) -> Iterator[None]:
    """While it lasts, the transformer beneath the vocabulary head is run by torch.compile, once for all shapes: rows
    drop out and prompts differ in length. The head stays as it is: which rows it sees changes from call to call."""
    body = model.base_model
    if not wanted:
        yield
        return
    own = vars(body).get("forward")  # somebody else's patch
    if body not in _compiled:
        _compiled[body] = torch.compile(body.forward, dynamic=True)
    body.forward = _compiled[body]
    try:
        yield
    finally:
        if own is None:
            del body.forward
        else:
            body.forward = own
