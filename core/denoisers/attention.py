"""Who sees whom: attention rules as boolean masks, True where the query (second axis) sees the key (third).

*bidirectional*: every position sees every other. *block-causal* (BD3-LM, Arriola et al. 2025, 2503.09573; SDAR, Cheng
et al. 2025, 2510.06303): a token sees its own block, both ways, and the blocks before it. The prompt is one block, or
blocks are counted from the start of the text, and its end shares one with the first tokens of the canvas. What a block
computes never depends on later ones, so its keys and values can be stored once it is finished. *annealed* (DiffuLLaMA,
Gong et al. 2025, 2410.17891): on the way from causal to bidirectional, while an autoregressive model is adapted.

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


def leads(prompt_mask: Tensor, text_block: int | None) -> Int[Tensor, " B"]:
    """How many tokens at the end of each prompt share a block with the first tokens of the canvas, (B,).

    A model that was trained on blocks of the whole text (SDAR, LLaDA2) counts them from its start: token p is in block
    p // b, wherever the prompt ends. Where the prompt is no part of the blocks, the canvas begins one.

    Args:
        prompt_mask: 0 on padding, (B, P).
        text_block: b, tokens, where blocks are counted so (`Denoiser.text_block`); else None.
    """
    lengths = prompt_mask.bool().sum(dim=1)
    return torch.zeros_like(lengths) if text_block is None else lengths % text_block


def block_causal(
    prompt_mask: Tensor, canvas_length: int, block_length: int, prompt_in_blocks: bool = False
) -> Bool[Tensor, "B N N"]:
    """The rule over [prompt | canvas], N = P + L.

    Its last rows are the rule of a *span* behind stored keys: with the stored positions as prompt and a span of Q
    tokens as canvas, ``block_causal(stored_mask, Q, b)[:, -Q:]`` is (B, Q, N + Q); with b = Q the span is one block.

    Args:
        prompt_mask: 0 on padding, (B, P).
        canvas_length: L, tokens; 0: the prompt alone. Where it ends inside of a block, so does the text: its tokens
            see what there is of it.
        block_length: b, tokens.
        prompt_in_blocks: blocks are counted from the start of the text, see `leads`. False: the prompt is one block.

    Raises:
        ValueError: blocks of no tokens.
    """
    block = _blocks(prompt_mask, canvas_length, block_length, prompt_in_blocks)
    canvas = torch.ones(prompt_mask.size(0), canvas_length, dtype=torch.bool, device=prompt_mask.device)
    rule = block.unsqueeze(1) <= block.unsqueeze(2)
    return without_padding(rule, torch.cat([prompt_mask.bool(), canvas], dim=1))


def noisy_and_clean(
    prompt_mask: Tensor, canvas_length: int, block_length: int, prompt_in_blocks: bool = False
) -> tuple[Bool[Tensor, "B N N"], slice]:
    """The rule over [prompt | noisy canvas | clean part], which predicts every block from its noisy self and its clean
    past in one forward (BD3-LM, 2503.09573, section 4), and which part of the clean [prompt | canvas] comes behind.

    A noisy block sees the prompt, the clean blocks before it and itself; a clean block sees the prompt and the clean
    blocks up to itself. Nobody looks at a row's last block: the clean part ends before the last of them, and with a
    single block there is none. The end of a prompt that shares a block with the first tokens of the canvas is in two
    states, beside the noisy ones and beside the clean ones: the clean part begins with a copy of it. Where rows differ
    in its length, what is copied of others is seen by nobody but itself.

    Args:
        prompt_mask, canvas_length, block_length, prompt_in_blocks: as `block_causal`.

    Returns:
        The rule, N = P + L + C, and the C columns of [prompt | canvas] that are to be copied, with their positions.
    """
    block = _blocks(prompt_mask, canvas_length, block_length, prompt_in_blocks)
    part = clean_part(prompt_mask, canvas_length, block_length, prompt_in_blocks)
    again, rows = block[:, part], len(prompt_mask)
    canvas = torch.ones(rows, canvas_length, dtype=torch.bool, device=prompt_mask.device)
    is_noisy = torch.cat([block >= 0, torch.zeros_like(again, dtype=torch.bool)], dim=1)  # the prompt's end with it
    block = torch.cat([block, again], dim=1)
    key, query, key_is_noisy, query_is_noisy = (
        values.unsqueeze(axis) for values in (block, is_noisy) for axis in (1, 2)
    )
    own = key_is_noisy & query_is_noisy & (key == query)
    before = ~key_is_noisy & torch.where(query_is_noisy, key < query, key <= query)
    seen = torch.cat([prompt_mask.bool(), canvas, (again >= 0).expand(rows, -1)], dim=1)
    return without_padding(own | before, seen), part


def clean_part(prompt_mask: Tensor, canvas_length: int, block_length: int, prompt_in_blocks: bool) -> slice:
    """What `noisy_and_clean` copies: the columns of [prompt | canvas] from the first block of the canvas on, with
    the end of the prompt in it, to where the last block begins; of all rows together. Arguments as there."""
    first, longest, end = prompt_mask.size(1), 0, (canvas_length - 1) // block_length * block_length
    if prompt_in_blocks:
        lead = leads(prompt_mask, block_length)
        ends = (canvas_length - 1 + lead) // block_length * block_length - lead
        longest, end = torch.stack([lead.amax(), ends.amax()]).tolist()
    return slice(first - longest, first + end) if end > 0 else slice(first, first)


def _blocks(prompt_mask: Tensor, canvas_length: int, block_length: int, prompt_in_blocks: bool) -> Int[Tensor, "R N"]:
    """Block number of each position of [prompt | canvas], 0 where the canvas begins: of every row, or (R = 1) of all
    alike. -1 all over a prompt that is one block."""
    if block_length < 1:
        raise ValueError(f"block_length={block_length}: expected at least 1 token")
    at = torch.arange(-prompt_mask.size(1), canvas_length, device=prompt_mask.device).unsqueeze(0)
    if not prompt_in_blocks:
        return (at // block_length).clamp(min=-1)  # rounds down
    return (at + leads(prompt_mask, block_length).unsqueeze(1)) // block_length


def without_padding(rule: Bool[Tensor, "*R N N"], mask: Tensor) -> Bool[Tensor, "B N N"]:
    """A rule, one for all rows or one for each, beside a mask (B, N), 0 on padding, which is hidden from all but
    itself."""
    itself = torch.eye(mask.size(1), dtype=torch.bool, device=mask.device)
    return (rule & mask.bool().unsqueeze(1)) | itself
