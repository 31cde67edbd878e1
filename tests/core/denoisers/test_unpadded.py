"""A model that cannot be told what is padding, in batches without: row by row what it says of each row alone."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from toys import rng

from core.denoisers import ModelDenoiser, UnpaddedDenoiser

VOCABULARY, MASK, LENGTH = 11, 10, 7


class Deaf(nn.Module):
    """What it says at a position depends on every token before and behind, by their distance, and on no mask."""

    def __init__(self, width=6):
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCABULARY, width), nn.Linear(width, VOCABULARY)
        for seed, parameter in enumerate(self.parameters()):
            nn.init.normal_(parameter, generator=rng(seed))

    def forward(self, input_ids=None, attention_mask=None, inputs_embeds=None, position_ids=None):
        hidden = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        assert attention_mask is None, "not handed on"
        places = torch.arange(hidden.size(1)).expand(hidden.shape[:2]) if position_ids is None else position_ids
        near = 1 / (2 + (places.unsqueeze(1) - places.unsqueeze(2)).float())  # not symmetric, never divides by 0
        return SimpleNamespace(logits=self.head(torch.tanh(near.nan_to_num(0, 0, 0) @ hidden)))


MODEL = Deaf()
INNER = ModelDenoiser(MODEL, MASK, head=MODEL.head, embedding=MODEL.embedding)
UNPADDED = UnpaddedDenoiser(INNER)
IDS = torch.randint(0, VOCABULARY, (5, LENGTH), generator=rng(3))
PADDINGS = {
    "ragged": [2, 0, 4, 2, 1],
    "sorted": [0, 1, 1, 3, 5],
    "equal": [3, 3, 3, 3, 3],
    "none": [0, 0, 0, 0, 0],
}
every_padding = pytest.mark.parametrize("padding", PADDINGS.values(), ids=PADDINGS)


def mask_of(padding):
    return (torch.arange(LENGTH) >= torch.tensor(padding).unsqueeze(1)).long()


def asked(padding, share=0.5):
    """Some positions of each row's text, in one row none."""
    rows = (torch.rand(IDS.shape, generator=rng(5)) < share) & mask_of(padding).bool()
    rows[3] = False
    return rows


def alone(padding, ask):
    """``ask(row, its slice of text)`` of every row, one after the other."""
    return torch.cat([ask(slice(i, i + 1), slice(cut, None)) for i, cut in enumerate(padding)])


@every_padding
def test_logits_are_those_of_each_row_alone(padding):
    rows = asked(padding)
    found = UNPADDED.logits(IDS, mask_of(padding), rows)
    expected = alone(padding, lambda row, text: INNER.logits(IDS[row, text], None, rows[row, text]))
    assert torch.allclose(found, expected, atol=1e-5)


@every_padding
def test_positions_go_with_their_tokens(padding):
    rows, places = asked(padding), torch.randint(0, 30, IDS.shape, generator=rng(6))
    found = UNPADDED.logits(IDS, mask_of(padding), rows, places)
    expected = alone(padding, lambda row, text: INNER.logits(IDS[row, text], None, rows[row, text], places[row, text]))
    assert torch.allclose(found, expected, atol=1e-5)


@every_padding
def test_logits_at_columns_are_those_of_each_row_alone(padding):
    columns = torch.tensor([[5, 6]]).expand(5, -1)
    found = UNPADDED.logits_at(IDS, mask_of(padding), columns)
    expected = alone(padding, lambda row, text: INNER.logits_at(IDS[row, text], None, columns[row] - text.start))
    assert torch.allclose(found, expected, atol=1e-5)


@every_padding
def test_scores_and_their_gradients_are_those_of_each_row_alone(padding):
    rows = asked(padding)
    targets = torch.randint(0, MASK, (int(rows.sum()),), generator=rng(7))
    weight = torch.randn(len(targets), generator=rng(8))

    def gradient(logps):
        MODEL.zero_grad()
        (weight * logps).sum().backward()
        return torch.cat([parameter.grad.flatten() for parameter in MODEL.parameters()])

    logps, entropies = UNPADDED.token_logps(IDS, mask_of(padding), rows, targets, 0.7)
    own = targets.split(rows.sum(dim=1).tolist())
    pairs = [
        INNER.token_logps(IDS[i : i + 1, cut:], None, rows[i : i + 1, cut:], own[i], 0.7)
        for i, cut in enumerate(padding)
    ]
    expected, spread = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    assert torch.allclose(logps, expected, atol=1e-5) and torch.allclose(entropies, spread, atol=1e-5)
    assert torch.allclose(gradient(logps), gradient(expected), atol=1e-4)


@every_padding
def test_logits_from_embeddings_are_those_of_each_row_alone(padding):
    rows, table = asked(padding), UNPADDED.embedding_table()
    assert torch.equal(table, INNER.embedding_table())
    found = UNPADDED.logits_from_embeddings(table[IDS], mask_of(padding), rows)
    expected = alone(
        padding, lambda row, text: INNER.logits_from_embeddings(table[IDS[row, text]], None, rows[row, text])
    )
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_order_of_rows_does_not_show():
    padding, order = PADDINGS["ragged"], torch.tensor([4, 2, 0, 3, 1])
    rows = asked(padding)
    number = torch.zeros_like(IDS).masked_scatter(rows, torch.arange(int(rows.sum())))
    found = UNPADDED.logits(IDS[order], mask_of(padding)[order], rows[order])
    expected = UNPADDED.logits(IDS, mask_of(padding), rows)[number[order][rows[order]]]
    assert torch.allclose(found, expected, atol=1e-5)


def test_without_a_mask_nothing_is_padding():
    rows = asked(PADDINGS["none"])
    assert torch.equal(UNPADDED.logits(IDS, None, rows), INNER.logits(IDS, None, rows))


def test_rows_of_equal_length_are_run_together():
    sizes = []
    handle = MODEL.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    UNPADDED.logits(IDS, mask_of(PADDINGS["ragged"]), asked(PADDINGS["ragged"]))
    handle.remove()
    assert sorted(map(tuple, sizes)) == [(1, 3), (1, 6), (1, 7), (2, 5)]


@pytest.mark.parametrize("row", [[1, 1, 1, 1, 1, 1, 0], [0, 1, 1, 0, 1, 1, 1]], ids=["right", "between"])
def test_padding_anywhere_else_is_refused(row):
    mask = torch.tensor([row]).expand(5, -1)
    with pytest.raises(ValueError, match=r"takes padding on the left alone.*got one of shape \(5, 7\)"):
        UNPADDED.logits(IDS, mask, asked(PADDINGS["none"]))


def test_a_rule_of_who_sees_whom_is_refused():
    with pytest.raises(ValueError, match=r"got one of shape \(5, 7, 7\)"):
        UNPADDED.logits(IDS, torch.ones(5, LENGTH, LENGTH, dtype=torch.bool), asked(PADDINGS["none"]))
