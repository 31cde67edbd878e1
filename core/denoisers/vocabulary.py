"""Tokens that are never predicted: the mask token, and rows of the vocabulary that stand for no token.

Checkpoints round their vocabulary up to a size that kernels like: Dream's has 151,667 tokens in 152,064 rows, SDAR's
151,670 in 151,936. What the model says of a row without a token is not defined, and no text can hold one. All these
have probability 0 wherever a distribution is made: in a rollout, in the loss, in a flow's prediction. A *target* among
them has log-probability -inf.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

Never = tuple[slice, ...]  # ranges of token ids; slices, as these cost no pass over a vocabulary and no wait


def all_but(ids: Iterable[int]) -> Never:
    """The ranges between some token ids, ascending. The last has no end: it goes as far as the logits."""
    ranges, begin = [], 0
    for token in sorted(set(ids)):
        if token > begin:
            ranges.append(slice(begin, token))
        begin = token + 1
    return (*ranges, slice(begin, None))


def fill_(values: Float[Tensor, "*shape V"], never: Never, value: float) -> None:
    """Write a number at the tokens that are never predicted, in place."""
    for tokens in never:
        values[..., tokens] = value


def exclude(logits: Float[Tensor, "R V"], never: Never) -> Float[Tensor, "R V"]:
    """The logits, -inf at the tokens that are never predicted; in place where no gradient goes through them: at large
    vocabularies a copy is what sampling costs."""
    if not logits.requires_grad:
        fill_(logits, never, float("-inf"))
        return logits
    column = torch.zeros(logits.size(-1), dtype=torch.bool, device=logits.device)
    for tokens in never:
        column[tokens] = True
    return logits.masked_fill(column, float("-inf"))
