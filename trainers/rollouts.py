"""Completions for a list of prompts, in batches of prompts of like length, on one process or on several."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel
from trl.trainer.utils import pad

from core.flow import FlowGenerator
from core.generator import DiffusionGenerator
from core.scoring import Share
from core.trajectory import Trajectory


def roll_out(
    sampler: DiffusionGenerator | FlowGenerator,
    prompts: Sequence[Sequence[int]],
    keys: Int[Tensor, " B"],
    pad_id: int,
    batch_size: int,
    device: torch.device,
    say: Callable[[int], None] | None = None,
) -> Trajectory:
    """One completion a prompt, in the order of the prompts.

    Batches are formed `by_length`; repetitions of a prompt stay neighbours and share their first evaluation. Each
    completion depends on its own key: the batches do not show.

    Args:
        sampler: what completes.
        prompts: token ids, B of them, none empty.
        keys: one random key a prompt, (B,).
        pad_id: fills shorter prompts up on their left.
        batch_size: prompts of one forward.
        device: where the model is.
        say: called after every batch with its number of completions.
    """
    order = by_length([len(prompt) for prompt in prompts], sampler.denoiser.text_block)
    parts = []
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        parts.append(sampler.generate(*padded([prompts[i] for i in rows], pad_id, device), keys[rows]))
        if say is not None:
            say(len(rows))
    return Trajectory.cat(parts)[torch.tensor(order, device=device).argsort()]


def by_length(lengths: Sequence[int], text_block: int | None) -> list[int]:
    """The places of prompts in the order in which batches are cut from them: of like length, so that there is little
    padding and often none.

    Args:
        lengths: of the prompts, tokens.
        text_block: tokens of a block, where blocks are counted from the start of the text: only prompts that end at
            the same place of a block are written side by side, so those follow one another. Else None.
    """
    return sorted(range(len(lengths)), key=lambda i: (lengths[i] % (text_block or 1), lengths[i]))  # stable


def padded(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Int[Tensor, "B P"], Int[Tensor, "B P"]]:
    """Prompts filled up on their left, and the mask that is 0 there."""
    ids = [torch.tensor(prompt) for prompt in prompts]
    mask = pad([torch.ones_like(own) for own in ids], padding_value=0, padding_side="left")
    return pad(ids, padding_value=pad_id, padding_side="left").to(device), mask.to(device)


def balanced(prompts: Sequence[Sequence[int]], parts: int, canvas_length: int) -> list[list[int]]:
    """The prompts dealt out so that every part has like work: longest processing time first (Graham 1969).

    Repetitions of a prompt, which follow one another, stay together up to an equal share of the prompts: they share
    their first evaluation. So no part is empty where there are as many prompts as parts.

    Args:
        prompts: token ids, N of them.
        parts: how many.
        canvas_length: tokens that are evaluated beside a prompt's own.

    Returns:
        For each part its places among the prompts.
    """
    most, pieces = math.ceil(len(prompts) / parts), []
    for place, prompt in enumerate(prompts):
        if pieces and len(pieces[-1]) < most and prompts[pieces[-1][0]] == prompt:
            pieces[-1].append(place)
        else:
            pieces.append([place])

    def work(piece: list[int]) -> int:
        return len(piece) * (len(prompts[piece[0]]) + canvas_length)

    loads, dealt = [0] * parts, [[] for _ in range(parts)]
    for piece in sorted(pieces, key=work, reverse=True):  # stable: every process comes to the same
        lightest = loads.index(min(loads))
        loads[lightest] += work(piece)
        dealt[lightest] += piece
    return dealt


def exchanged(trajectory: Trajectory, dealt: list[list[int]], share: Share) -> Trajectory:
    """What this process's part of the prompts was answered with, wherever that was; a collective.

    Args:
        trajectory: of the prompts that were dealt to this process, in that order.
        dealt: as `balanced` has it.
        share: the part of the prompts that is this process's.
    """
    most = max(map(len, dealt))
    padded = trajectory[torch.arange(most, device=trajectory.ids.device) % len(trajectory)]
    tensors = {name: share.gather(value) for name, value in vars(padded).items() if isinstance(value, Tensor)}
    found = {place: part * most + i for part, places in enumerate(dealt) for i, place in enumerate(places)}
    own = range(len(found))[share.own(len(found) // share.processes)]
    return replace(padded, **tensors)[torch.tensor([found[place] for place in own], device=padded.ids.device)]


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
