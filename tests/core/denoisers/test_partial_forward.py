"""The last feed-forward module runs where its output is read, with equal values and gradients."""

from types import SimpleNamespace

import pytest
import torch
from padded import ATTENTION, IDS, MASK_ID, ROWS, VOCABULARY
from torch import Tensor, nn
from toys import TinyModel, rng

from core.denoisers import ModelDenoiser


class Layered(nn.Module):
    """A position-wise module after one that mixes positions, and a head; `after` may mix them once more."""

    def __init__(self, after=None):
        super().__init__()
        self.tiny = TinyModel(VOCABULARY)
        self.feed_forward = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 6))
        for parameter, seed in zip(self.feed_forward.parameters(), range(4), strict=True):
            nn.init.normal_(parameter, generator=rng(10 + seed))
        self.after = after
        self.positions: list[int] = []
        self.feed_forward[0].register_forward_hook(
            lambda _, args, output: self.positions.append(args[0][..., 0].numel())
        )

    def forward(self, input_ids, attention_mask=None):
        hidden = self.tiny.embedding(input_ids)
        seen = hidden if attention_mask is None else hidden * attention_mask.unsqueeze(-1)
        hidden = hidden + seen.sum(dim=1, keepdim=True)
        hidden = hidden + self.feed_forward(hidden)
        if self.after is not None:
            hidden = self.after(hidden)
        return SimpleNamespace(logits=self.tiny.head(hidden))


def layered(skip: bool, after=None) -> ModelDenoiser:
    model = Layered(after)
    return ModelDenoiser(model, MASK_ID, model.tiny.head, last_feed_forward=model.feed_forward if skip else None)


def mixing(hidden: Tensor) -> Tensor:
    return hidden + hidden.cumsum(dim=1)


@pytest.mark.parametrize("targets", [False, True])
def test_the_last_feed_forward_runs_where_something_is_predicted_with_equal_values_and_gradients(targets):
    found = []
    for skip in (False, True):
        denoiser = layered(skip)
        if targets:
            wanted = torch.arange(int(ROWS.sum())) % MASK_ID
            values, _ = denoiser.token_logps(IDS, ATTENTION, ROWS, wanted, 1.0)
        else:
            values = denoiser.logits(IDS, ATTENTION, ROWS).log_softmax(-1)[:, torch.arange(VOCABULARY) != MASK_ID]
        denoiser.model.positions.clear()
        values.square().sum().backward()
        again = denoiser.logits(IDS, ATTENTION, ROWS)
        assert denoiser.model.positions == [len(again) if skip else IDS.numel()]
        found.append([values.detach(), *(parameter.grad for parameter in denoiser.model.parameters())])
    for plain, skipped in zip(*found, strict=True):
        assert torch.allclose(plain, skipped, rtol=1e-4, atol=1e-5) and plain.abs().max() > 0


def test_columns_are_put_back_where_they_came_from():
    columns = torch.tensor([[1, 4], [2, 5], [3, 4], [1, 2]])
    whole, skipped = (layered(skip).logits_at(IDS, ATTENTION, columns) for skip in (False, True))
    assert torch.allclose(whole, skipped, atol=1e-5)
    nothing = layered(True).logits_at(IDS, ATTENTION, columns[:, :0])
    assert nothing.shape == (0, VOCABULARY)


@pytest.mark.parametrize("after", [mixing, torch.flip], ids=["mixes", "raises"])
def test_a_module_whose_output_is_read_elsewhere_is_left_alone(after):
    after = mixing if after is mixing else (lambda hidden: hidden.flip(1))
    whole, left = (layered(skip, after) for skip in (False, True))
    assert torch.allclose(whole.logits(IDS, ATTENTION, ROWS), left.logits(IDS, ATTENTION, ROWS), atol=1e-6)
    left.model.positions.clear()
    left.logits(IDS, ATTENTION, ROWS)
    assert left.model.positions == [IDS.numel()]


def test_a_module_that_looks_at_other_positions_is_left_alone():
    class Looking(nn.Module):
        def forward(self, hidden):
            return hidden - hidden.mean(dim=1, keepdim=True)

    model = Layered()
    model.feed_forward = Looking()
    plain = ModelDenoiser(model, MASK_ID, model.tiny.head)
    looked = ModelDenoiser(model, MASK_ID, model.tiny.head, last_feed_forward=model.feed_forward)
    assert torch.equal(plain.logits(IDS, ATTENTION, ROWS), looked.logits(IDS, ATTENTION, ROWS))
    assert "forward" not in vars(model.feed_forward)


def test_a_checkpointed_layer_is_run_whole_where_gradients_are_wanted():
    denoiser = layered(True)
    denoiser.model.is_activation_checkpointing = True
    denoiser.logits(IDS, ATTENTION, ROWS)
    assert denoiser.model.positions == [IDS.numel()]
    with torch.no_grad():
        denoiser.logits(IDS, ATTENTION, ROWS)
    assert denoiser.model.positions[-1] == int(ROWS.sum())
