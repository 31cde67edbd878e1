"""Who sees whom: attention rules as boolean masks, True where the query (second axis) sees the key (third).

*bidirectional*: every position sees every other. *block-causal* (BD3-LM, Arriola et al. 2025, 2503.09573; SDAR, Cheng
et al. 2025, 2510.06303): the prompt is one block that sees itself alone; a token of the canvas sees the prompt, the
blocks before its own, and its own block, both ways. What a block computes then never depends on later blocks, so its
keys and values can be stored once it is finished.

Padding is seen by nobody but itself: a row of nothing has no softmax.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def bidirectional(mask: Tensor) -> Bool[Tensor, "B N N"]:
    """Every position sees every position that is not padding.

    Args:
        mask: 0 on padding, (B, N).
    """
    return _without_padding(torch.ones(mask.size(1), mask.size(1), dtype=torch.bool, device=mask.device), mask)


def block_causal(prompt_mask: Tensor, canvas_length: int, block_length: int) -> Bool[Tensor, "B N N"]:
    """The rule over [prompt | canvas], N = P + L.

    Its last rows are the rule of a *span* behind stored keys: with the stored positions as prompt and a span of Q
    tokens as canvas, ``block_causal(stored_mask, Q, b)[:, -Q:]`` is (B, Q, N + Q); with b = Q the span is one block.

    Args:
        prompt_mask: 0 on padding, (B, P).
        canvas_length: L, tokens; 0: the prompt alone.
        block_length: b, tokens.

    Raises:
        ValueError: the blocks do not divide the canvas.
    """
    block = _blocks(prompt_mask, canvas_length, block_length)
    canvas = torch.ones(prompt_mask.size(0), canvas_length, dtype=torch.bool, device=prompt_mask.device)
    return _without_padding(block <= block.unsqueeze(1), torch.cat([prompt_mask.bool(), canvas], dim=1))


def noisy_and_clean(prompt_mask: Tensor, canvas_length: int, block_length: int) -> Bool[Tensor, "B N N"]:
    """The rule over [prompt | noisy canvas | clean canvas without its last block], N = P + 2 L - b, which predicts
    every block from its noisy self and its clean past in one forward (BD3-LM, 2503.09573, section 4).

    A noisy block sees the prompt, the clean blocks before it and itself; a clean block sees the prompt and the clean
    blocks up to itself. Nobody looks at the last clean block: with a single block there is no clean part.

    Args:
        prompt_mask, canvas_length, block_length: as `block_causal`.
    """
    block = _blocks(prompt_mask, canvas_length, block_length)
    past = canvas_length - block_length
    prompt, noisy = block.split([prompt_mask.size(1), canvas_length])
    block = torch.cat([prompt, noisy, noisy[:past]])
    is_noisy = torch.zeros_like(block, dtype=torch.bool)
    is_noisy[len(prompt) : len(prompt) + canvas_length] = True
    query, query_is_noisy = block.unsqueeze(1), is_noisy.unsqueeze(1)
    own = is_noisy & query_is_noisy & (block == query)
    before = ~is_noisy & torch.where(query_is_noisy, block < query, block <= query)
    canvases = torch.ones(prompt_mask.size(0), canvas_length + past, dtype=torch.bool, device=prompt_mask.device)
    return _without_padding(own | before, torch.cat([prompt_mask.bool(), canvases], dim=1))


def _blocks(prompt_mask: Tensor, canvas_length: int, block_length: int) -> Int[Tensor, " N"]:
    """Block number of each position of [prompt | canvas]; the prompt's is -1."""
    if block_length < 1 or canvas_length % block_length:
        raise ValueError(f"block_length={block_length}: expected a divisor of the canvas of {canvas_length} tokens")
    canvas = torch.arange(canvas_length, device=prompt_mask.device) // block_length
    return torch.cat([canvas.new_full((prompt_mask.size(1),), -1), canvas])


def _without_padding(rule: Bool[Tensor, "N N"], mask: Tensor) -> Bool[Tensor, "B N N"]:
    """The rule for each row, with padding hidden from all but itself."""
    itself = torch.eye(mask.size(1), dtype=torch.bool, device=mask.device)
    return (rule & mask.bool().unsqueeze(1)) | itself
