"""Attention rules against their definitions in words, one pair of positions at a time."""

import pytest
import torch

from core.denoisers.attention import bidirectional, block_causal, noisy_and_clean

PADDED = torch.tensor([[1, 1, 1], [0, 0, 1]])
shapes = pytest.mark.parametrize("length, block", [(6, 2), (6, 3), (4, 4), (3, 1)])


def padding_hides(rule, mask, q, k):
    """What the rule says of two positions, unless the key is padding."""
    return q == k or (bool(mask[k]) and rule)


def assert_is(found, mask, rule):
    """``found[b, q, k]`` is rule(q, k) for every pair, padding apart."""
    for b, row in enumerate(mask.tolist()):
        expected = [[padding_hides(rule(q, k), row, q, k) for k in range(len(row))] for q in range(len(row))]
        assert found[b].tolist() == expected


def extended(length):
    return torch.cat([PADDED, torch.ones(2, length, dtype=torch.int64)], dim=1)


@shapes
def test_a_token_sees_the_prompt_and_the_blocks_up_to_its_own(length, block):
    def number(i):
        return -1 if i < 3 else (i - 3) // block

    assert_is(block_causal(PADDED, length, block), extended(length), lambda q, k: number(k) <= number(q))


@shapes
def test_noisy_blocks_see_themselves_and_their_clean_past(length, block):
    def place(i):
        """Which part a position is in, and its block."""
        if i < 3:
            return "prompt", -1
        return ("noisy", (i - 3) // block) if i < 3 + length else ("clean", (i - 3 - length) // block)

    def sees(q, k):
        (part, own), (other, its) = place(q), place(k)
        if other == "prompt":
            return True
        if part == "noisy":
            return its == own if other == "noisy" else its < own
        return part == "clean" and other == "clean" and its <= own

    found = noisy_and_clean(PADDED, length, block)
    assert found.size(1) == 3 + 2 * length - block
    assert_is(found, extended(2 * length - block), sees)


@shapes
def test_prompt_and_clean_part_alone_are_block_causal(length, block):
    found = noisy_and_clean(PADDED, length, block)
    clean = [*range(3), *range(3 + length, found.size(1))]
    assert torch.equal(
        found[:, clean][:, :, clean], block_causal(PADDED, length, block)[:, : len(clean), : len(clean)]
    )


@shapes
def test_a_prompt_in_blocks_is_cut_backwards_from_where_the_canvas_begins(length, block):
    """A token sees its own block and those before it, in the prompt as behind it; the first block may be shorter."""

    def number(i):
        return (i - 3) // block if i >= 3 else -1 - (2 - i) // block

    found = block_causal(PADDED, length, block, prompt_in_blocks=True)
    assert_is(found, extended(length), lambda q, k: number(k) <= number(q))
    prompt_alone = block_causal(PADDED, 0, block, prompt_in_blocks=True)
    assert torch.equal(found[:, :3, :3], prompt_alone), "the prompt does not depend on what follows"


@shapes
def test_noisy_blocks_behind_a_prompt_in_blocks(length, block):
    """As behind one in one piece, but that the prompt itself is read in blocks."""
    found, whole = (noisy_and_clean(PADDED, length, block, pieces) for pieces in (True, False))
    assert torch.equal(found[:, 3:], whole[:, 3:])
    assert torch.equal(found[:, :3, :3], block_causal(PADDED, 0, block, prompt_in_blocks=True))
    assert not found[:, :3, 3:].any()


def test_blocks_longer_than_the_prompt_leave_it_in_one_piece():
    assert torch.equal(block_causal(PADDED, 6, 3, prompt_in_blocks=True), block_causal(PADDED, 6, 3))
    assert not torch.equal(block_causal(PADDED, 6, 2, prompt_in_blocks=True), block_causal(PADDED, 6, 2))


def test_a_single_block_needs_no_clean_part():
    assert torch.equal(noisy_and_clean(PADDED, 4, 4), block_causal(PADDED, 4, 4))


def test_the_rule_of_a_span_is_that_of_its_rows():
    """Behind stored keys of prompt and one block, two blocks of two."""
    whole, stored = block_causal(PADDED, 6, 2), extended(2)
    assert torch.equal(block_causal(stored, 4, 2)[:, -4:], whole[:, 5:])


def test_bidirectional_hides_padding_alone():
    assert_is(bidirectional(PADDED), PADDED, lambda q, k: True)


@pytest.mark.parametrize("block", [0, 4, 7])
def test_blocks_must_divide_the_canvas(block):
    with pytest.raises(ValueError, match=f"block_length={block}: expected a divisor of the canvas of 6 tokens"):
        block_causal(PADDED, 6, block)
