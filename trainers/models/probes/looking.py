"""How a model is looked at: made-up sequences of ordinary tokens, their logits, and when two of these are the same."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import torch
from torch import Tensor

from core.denoisers import ModelDenoiser, UnpaddedDenoiser
from core.denoisers.attention import block_causal
from core.denoisers.vocabulary import fill_
from trainers.models.caching import RULES
from trainers.models.policy import Policy, embedding_rows

LENGTH, PADDING, BLOCK = 12, 3, 4  # tokens of the made-up sequences
# Of the logits' standard deviation, root mean square: products of another shape round otherwise, with the same weights
# by up to 3e-6 in float32 and 0.1 in bfloat16, where experts change with it. Wrong positions made 0.7 and more.
LITTLE, LITTLE_IN_HALF = 1e-3, 0.25
# what a model raises that is called in a form that it does not take
REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError, AssertionError)

Refuse = Callable[[str], NoReturn]  # raises a ConfigError that says what was seen


@contextmanager
def at_rest(policy: Policy) -> Iterator[None]:
    """Eval mode, no gradient, global randomness put back; on the accelerator if this process has it for itself."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1 and not policy.quantised
    accelerator = torch.accelerator.current_accelerator()
    if alone and accelerator is not None and torch.accelerator.is_available():
        policy.move_to(accelerator)
    device = policy.model.device
    with policy.denoiser().evaluating(), torch.random.fork_rng([] if device.type == "cpu" else [device]):
        yield


def sequence(policy: Policy, length: int, shift: int = 0) -> Tensor:
    """A row of ordinary tokens, (1, length); others at every position for another ``shift``."""
    special = set(policy.tokenizer.all_special_ids)
    known = min(len(policy.tokenizer), embedding_rows(policy.model))
    stride = max(1, known // (4 * LENGTH))
    ordinary = [token for token in range(known - 1, -1, -stride) if token not in special]
    ids = [ordinary[(i + shift * (length + 1)) % len(ordinary)] for i in range(length)]
    return torch.tensor([ids], device=policy.model.device)


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


def same(policy: Policy, one: Tensor, other: Tensor) -> bool:
    """Whether logits are those of one function, computed in two ways."""
    exact = policy.model.dtype == torch.float32 and not policy.quantised
    little = LITTLE if exact else LITTLE_IN_HALF
    return moved(one, other) <= little * float(one.std())


def one_block(policy: Policy, ids: Tensor) -> Tensor | None:
    """What a block-causal model sees of a prompt and one block, (1, N, N); None for a bidirectional one."""
    if policy.block_length is None:
        return None
    return block_causal(torch.ones_like(ids[:, :-BLOCK]), BLOCK, BLOCK, policy.prompt_in_blocks)


def rules(policy: Policy) -> list[str]:
    """Ways to say who sees whom, the model's own kernel first."""
    return sorted(RULES, key=lambda name: name != policy.kernel)
