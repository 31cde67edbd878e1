"""Attention rules against their definitions in words, one pair of positions at a time."""

import pytest
import torch

from core.denoisers.attention import bidirectional, block_causal, leads, noisy_and_clean

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

    found, part = noisy_and_clean(PADDED, length, block)
    assert found.size(1) == 3 + 2 * length - block and part == slice(3, 3 + length - block)
    assert_is(found, extended(2 * length - block), sees)


@shapes
def test_prompt_and_clean_part_alone_are_block_causal(length, block):
    found, _ = noisy_and_clean(PADDED, length, block)
    clean = [*range(3), *range(3 + length, found.size(1))]
    assert torch.equal(
        found[:, clean][:, :, clean], block_causal(PADDED, length, block)[:, : len(clean), : len(clean)]
    )


# ---- blocks counted from the start of the text ----------------------------------------------------------------------

RAGGED = torch.tensor([[1] * 8, [0] + [1] * 7, [0] * 5 + [1] * 3, [0] * 7 + [1], [0] * 2 + [1] * 6])  # 8, 7, 3, 1, 6
every_shape = pytest.mark.parametrize(
    "length, block", [(6, 2), (6, 3), (8, 4), (4, 4), (5, 5), (3, 1), (7, 4), (2, 4)]
)


def numbers(mask, length, block):
    """The block of every position of [prompt | canvas], by counting from the first that is no padding."""
    first = mask.index(1)
    return [(i - first) // block for i in range(len(mask) + length)]


@every_shape
def test_a_lead_is_what_a_prompt_has_in_the_first_block_of_the_canvas(length, block):
    for row, lead in zip(RAGGED.tolist(), leads(RAGGED, block).tolist(), strict=True):
        number = numbers(row, length, block)
        own = [i for i in range(8) if row[i] and number[i] == number[8]]
        assert lead == len(own) == sum(row) % block
    assert leads(RAGGED, None).tolist() == [0] * 5


@every_shape
def test_blocks_of_a_text_are_counted_from_its_start(length, block):
    found = block_causal(RAGGED, length, block, prompt_in_blocks=True)
    for b, row in enumerate(RAGGED.tolist()):
        number, mask = numbers(row, length, block), torch.tensor([[*row, *[1] * length]])
        assert_is(found[b : b + 1], mask, lambda q, k, number=number: number[k] <= number[q])


@every_shape
@pytest.mark.parametrize("rows", [[0], [1], [3], [0, 1, 2, 3, 4], [4, 2]], ids=str)
def test_noisy_blocks_see_their_clean_past_wherever_the_prompt_ends(length, block, rows):
    """The end of the prompt is noisy in its own place and clean in its copy; other copies are seen by nobody."""
    mask = RAGGED[rows]
    found, part = noisy_and_clean(mask, length, block, True)
    again = range(8 + length)[part]
    assert found.size(1) == 8 + length + len(again)
    for b, row in enumerate(mask.tolist()):
        number = numbers(row, length, block)
        noisy = [n >= number[8] for n in number] + [False] * len(again)
        useless = [number[i] < number[8] for i in again]
        number += [number[i] for i in again]
        seen = torch.tensor([[*row, *[1] * length, *(not hidden for hidden in useless)]])

        def sees(q, k, number=number, noisy=noisy):
            if noisy[k]:
                return noisy[q] and number[k] == number[q]
            return number[k] < number[q] or (not noisy[q] and number[k] == number[q])

        assert_is(found[b : b + 1], seen, sees)
        past = [i for i in range(8 + length) if number[8] <= number[i] < number[7 + length]]
        assert set(past) <= set(again), "all that a later block looks back on"


def test_of_a_prompt_that_fills_its_blocks_nothing_is_copied():
    found, part = noisy_and_clean(RAGGED[[0]], 8, 4, True)
    assert part == slice(8, 12)
    whole, _ = noisy_and_clean(RAGGED[[0]], 8, 4)
    assert torch.equal(found[:, 8:], whole[:, 8:])
    assert noisy_and_clean(RAGGED[[1]], 8, 4, True)[1] == slice(5, 13)  # 3 of the prompt, all but the last 3


def test_a_single_block_needs_no_clean_part():
    assert torch.equal(noisy_and_clean(PADDED, 4, 4)[0], block_causal(PADDED, 4, 4))
    assert noisy_and_clean(PADDED, 4, 4)[1] == slice(3, 3)


def test_the_rule_of_a_span_is_that_of_its_rows():
    """Behind stored keys of prompt and one block, two blocks of two."""
    whole, stored = block_causal(PADDED, 6, 2), extended(2)
    assert torch.equal(block_causal(stored, 4, 2)[:, -4:], whole[:, 5:])


def test_bidirectional_hides_padding_alone():
    assert_is(bidirectional(PADDED), PADDED, lambda q, k: True)


def test_blocks_have_tokens():
    with pytest.raises(ValueError, match="block_length=0: expected at least 1 token"):
        block_causal(PADDED, 6, 0)
