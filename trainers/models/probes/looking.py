"""How a model is looked at: made-up sequences of ordinary tokens, their logits, and when two of these are the same."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from core.denoisers import ModelDenoiser, UnpaddedDenoiser
from core.denoisers.attention import block_causal
from core.denoisers.vocabulary import fill_
from trainers.models.caching import RULES
from trainers.models.families import BLOCK_KEYS
from trainers.models.policy import Policy, embedding_rows
from trainers.settings.options import ConfigError

LENGTH, PADDING, BLOCK = 12, 3, 4  # tokens of the made-up sequences
# Of those that are to be longer than what a model sees at a time: at least, at most, and in blocks of its own
FAR, FARTHEST, BLOCKS = 104, 1024, 3
POSITION_KEYS = ("max_position_embeddings", "max_sequence_length")
# Of the logits' standard deviation, root mean square: products of another shape round otherwise, with the same weights
# by up to 3e-6 in float32 and 0.1 in bfloat16, where experts change with it. Wrong positions made 0.7 and more.
LITTLE, LITTLE_IN_HALF = 1e-3, 0.25
ROOM = 0.8  # of an accelerator's free memory that weights may take: the rest is for what a forward makes
# what a model raises that is called in a form that it does not take
REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError, AssertionError)


@dataclass(frozen=True)
class Margin:
    """A number that a check turned on.

    Attributes:
        question: what was asked.
        value: what was measured.
        limit: what it was held against.
        below: whether the answer is good below the limit, or above it.
    """

    question: str
    value: float
    limit: float
    below: bool = True

    def __str__(self) -> str:
        """As a table has it."""
        side = "below" if self.below else "above"
        return f"{self.question} {self.value:.1e} ({side} {self.limit:g})"


class Examiner:
    """Takes down what is measured, and raises a ConfigError where the model is not what is claimed.

    Args:
        name: of the model, for messages.

    Attributes:
        margins: what was measured, in order; of a question that was asked again, the last answer.
    """

    def __init__(self, name: str):
        self.name = name
        self.margins: dict[str, Margin] = {}

    def measured(self, question: str, value: float, limit: float, below: bool = True) -> bool:
        """Take a number down; whether it is on the good side of its limit."""
        self.margins[question] = Margin(question, value, limit, below)
        return value <= limit if below else value > limit

    def refuse(self, seen: str, runs: bool = True) -> NoReturn:
        """Raise a ConfigError that says what was seen; ``runs``: whether the model can be run at all, so that a user
        may know better and skip the check."""
        skip = " (model.probe=false skips this check)" if runs else ""
        raise ConfigError(f"model.name_or_path={self.name!r}: {seen}{skip}")


@contextmanager
def at_rest(policy: Policy) -> Iterator[None]:
    """Eval mode, no gradient, global randomness put back; on this process' accelerator, if it has room for the model.

    Where there are several processes the model goes back to where it was: it may be about to be sharded.
    """
    before, place = policy.model.device, _accelerator(policy)
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    try:
        if place is not None:
            policy.move_to(place)
        device = policy.model.device
        with policy.denoiser().evaluating(), torch.random.fork_rng([] if device.type == "cpu" else [device]):
            yield
    finally:
        if place is not None and not alone:
            policy.move_to(before)


def _accelerator(policy: Policy) -> torch.device | None:
    """Where this process will train; None: nowhere else than where the weights are, or there is no room for them."""
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if kind is None or policy.quantised:
        return None
    place = torch.device(kind.type, int(os.environ.get("LOCAL_RANK", "0")))
    weights = sum(weight.nbytes for weight in policy.model.parameters())
    return place if weights < ROOM * _free(place) else None


def _free(place: torch.device) -> float:
    """Free memory, bytes; infinite where the accelerator does not say."""
    try:
        return torch.accelerator.get_memory_info(place)[0]
    except (RuntimeError, NotImplementedError):
        return math.inf


def sequence(policy: Policy, length: int, shift: int = 0) -> Tensor:
    """A row of ordinary tokens, (1, length); others at every position for another ``shift`` of 0, 1 and 2."""
    special = set(policy.tokenizer.all_special_ids)
    known = min(len(policy.tokenizer), embedding_rows(policy.model))
    stride = max(1, known // (4 * length))
    ordinary = [token for token in range(known - 1, -1, -stride) if token not in special]
    start = shift * (len(ordinary) // 3)
    ids = [ordinary[(i + start) % len(ordinary)] for i in range(length)]
    return torch.tensor([ids], device=policy.model.device)


def far_length(policy: Policy) -> int:
    """Tokens of a sequence that is longer than any block that the model's config names, if it has the positions."""

    def named(keys: tuple[str, ...]) -> list[int]:
        values = (getattr(policy.model.config, key, None) for key in keys)
        return [value for value in values if isinstance(value, int) and value > 0]

    wanted = max(FAR, *(BLOCKS * block for block in named(BLOCK_KEYS)), 0)
    return min(wanted, FARTHEST, *named(POSITION_KEYS))


def logits_from(
    denoiser: ModelDenoiser | UnpaddedDenoiser, ids: Tensor, mask: Tensor | None, first: int = 1
) -> Tensor:
    """Logits (R, V) of all positions from ``first`` on; position 0 has none if logits are shifted."""
    rows = torch.ones_like(ids, dtype=torch.bool)
    rows[:, :first] = False
    logits = denoiser.logits(ids, mask, rows)
    fill_(logits, denoiser.never, 0.0)  # -inf everywhere
    return logits


def moved(one: Tensor, other: Tensor) -> float:
    """Root mean square of a difference of logits."""
    return float((one - other).square().mean().sqrt())


def gap(one: Tensor, other: Tensor) -> float:
    """How far logits are apart, in standard deviations, root mean square."""
    return moved(one, other) / max(float(one.std()), torch.finfo(torch.float32).tiny)


def little(policy: Policy) -> float:
    """The largest `gap` of one function that is computed in two ways."""
    exact = policy.model.dtype == torch.float32 and not policy.quantised
    return LITTLE if exact else LITTLE_IN_HALF


def same(policy: Policy, one: Tensor, other: Tensor) -> bool:
    """Whether logits are those of one function, computed in two ways."""
    return gap(one, other) <= little(policy)


def one_block(policy: Policy, ids: Tensor) -> Tensor | None:
    """What a block-causal model sees of a prompt and one block, (1, N, N); None for a bidirectional one."""
    if policy.block_length is None:
        return None
    return block_causal(torch.ones_like(ids[:, :-BLOCK]), BLOCK, BLOCK, policy.prompt_in_blocks)


def rules(policy: Policy) -> list[str]:
    """Ways to say who sees whom, the model's own kernel first."""
    return sorted(RULES, key=lambda name: name != policy.kernel)
