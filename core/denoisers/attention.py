"""Who sees whom: attention rules as boolean masks, True where the query (second axis) sees the key (third).

*bidirectional*: every position sees every other. *block-causal* (BD3-LM, Arriola et al. 2025, 2503.09573; SDAR, Cheng
et al. 2025, 2510.06303): the prompt sees itself alone, as one block or in blocks; a token of the canvas sees the
prompt, the blocks before its own, and its own block, both ways. What a block computes then never depends on later
blocks, so its keys and values can be stored once it is finished. *annealed* (DiffuLLaMA, Gong et al. 2025,
2410.17891): on the way from causal to bidirectional, while an autoregressive model is adapted.

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
    return without_padding(torch.ones(mask.size(1), mask.size(1), dtype=torch.bool, device=mask.device), mask)


def annealed(length: int, visible: float, generator: torch.Generator) -> Bool[Tensor, "N N"]:
    """Every position sees itself, its past, and each position of its future with probability ``visible``.

    A rule without rows: `without_padding` makes it one of a batch. All rows share the draw, as in DiffuLLaMA's
    training, and a part of a batch has the rule that the whole has.

    Args:
        length: N, tokens.
        visible: a probability; 0: causal, 1: bidirectional.
        generator: the only source of randomness, on the CPU.

    Raises:
        ValueError: no probability.
    """
    if not 0 <= visible <= 1:
        raise ValueError(f"visible={visible}: expected a probability in [0, 1]")
    past = torch.ones(length, length, dtype=torch.bool).tril()
    return past | (torch.rand(length, length, generator=generator) < visible)


def block_causal(
    prompt_mask: Tensor, canvas_length: int, block_length: int, prompt_in_blocks: bool = False
) -> Bool[Tensor, "B N N"]:
    """The rule over [prompt | canvas], N = P + L.

    Its last rows are the rule of a *span* behind stored keys: with the stored positions as prompt and a span of Q
    tokens as canvas, ``block_causal(stored_mask, Q, b)[:, -Q:]`` is (B, Q, N + Q); with b = Q the span is one block.

    Args:
        prompt_mask: 0 on padding, (B, P).
        canvas_length: L, tokens; 0: the prompt alone.
        block_length: b, tokens.
        prompt_in_blocks: the prompt is made of blocks of b tokens too, the last of which ends where the canvas begins;
            its first block may be shorter. A model that was trained on blocks counted from the start of the text
            (SDAR, LLaDA2) and tells positions apart by their distance alone sees what it was trained on, but for that
            first block. False: the prompt is one block.

    Raises:
        ValueError: the blocks do not divide the canvas.
    """
    block = _blocks(prompt_mask, canvas_length, block_length, prompt_in_blocks)
    canvas = torch.ones(prompt_mask.size(0), canvas_length, dtype=torch.bool, device=prompt_mask.device)
    return without_padding(block <= block.unsqueeze(1), torch.cat([prompt_mask.bool(), canvas], dim=1))


def noisy_and_clean(
    prompt_mask: Tensor, canvas_length: int, block_length: int, prompt_in_blocks: bool = False
) -> Bool[Tensor, "B N N"]:
    """The rule over [prompt | noisy canvas | clean canvas without its last block], N = P + 2 L - b, which predicts
    every block from its noisy self and its clean past in one forward (BD3-LM, 2503.09573, section 4).

    A noisy block sees the prompt, the clean blocks before it and itself; a clean block sees the prompt and the clean
    blocks up to itself. Nobody looks at the last clean block: with a single block there is no clean part.

    Args:
        prompt_mask, canvas_length, block_length, prompt_in_blocks: as `block_causal`.
    """
    block = _blocks(prompt_mask, canvas_length, block_length, prompt_in_blocks)
    past = canvas_length - block_length
    prompt, noisy = block.split([prompt_mask.size(1), canvas_length])
    block = torch.cat([prompt, noisy, noisy[:past]])
    is_noisy = torch.zeros_like(block, dtype=torch.bool)
    is_noisy[len(prompt) : len(prompt) + canvas_length] = True
    query, query_is_noisy = block.unsqueeze(1), is_noisy.unsqueeze(1)
    own = is_noisy & query_is_noisy & (block == query)
    before = ~is_noisy & torch.where(query_is_noisy, block < query, block <= query)
    canvases = torch.ones(prompt_mask.size(0), canvas_length + past, dtype=torch.bool, device=prompt_mask.device)
    return without_padding(own | before, torch.cat([prompt_mask.bool(), canvases], dim=1))


def _blocks(prompt_mask: Tensor, canvas_length: int, block_length: int, prompt_in_blocks: bool) -> Int[Tensor, " N"]:
    """Block number of each position of [prompt | canvas], below 0 on the prompt; -1 all over it if it is one block."""
    if block_length < 1 or canvas_length % block_length:
        raise ValueError(f"block_length={block_length}: expected a divisor of the canvas of {canvas_length} tokens")
    prompt_length = prompt_mask.size(1)
    block = torch.arange(-prompt_length, canvas_length, device=prompt_mask.device) // block_length  # rounds down
    return block if prompt_in_blocks else block.clamp(min=-1)


def without_padding(rule: Bool[Tensor, "N N"], mask: Tensor) -> Bool[Tensor, "B N N"]:
    """The rule (N, N) for each row of a mask (B, N), 0 on padding, which is hidden from all but itself."""
    itself = torch.eye(mask.size(1), dtype=torch.bool, device=mask.device)
    return (rule & mask.bool().unsqueeze(1)) | itself
