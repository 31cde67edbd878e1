"""A torch module that knows nothing of transformers is a model: it may return a plain tensor of logits."""

from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from toys import MASK, VOCABULARY, TinyModel, prompts, rng, sampler, synced

from core import LikelihoodEstimate, ModelDenoiser, Trajectory

ROWS, LENGTH = 5, 6


class HandMade(nn.Module):
    """Each token's logits from its own embedding and the mean of those that are attended to."""

    def __init__(self):
        super().__init__()
        self.embedding, self.linear = nn.Embedding(VOCABULARY + 1, 8), nn.Linear(8, VOCABULARY + 1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        hidden = self.embedding(input_ids)
        seen = hidden if attention_mask is None else hidden * attention_mask.unsqueeze(-1)
        return self.linear(torch.tanh(hidden + seen.mean(dim=1, keepdim=True)))


class Holding(HandMade):
    """The same, in the form of transformers."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
        return SimpleNamespace(logits=super().forward(input_ids, attention_mask))


def built(kind: type[HandMade], head: bool) -> ModelDenoiser:
    torch.manual_seed(0)
    model = kind()
    return ModelDenoiser(model, MASK, model.linear if head else None)


def outcome(denoiser: ModelDenoiser) -> tuple[Tensor, Trajectory, LikelihoodEstimate, Tensor]:
    """Logits, a rollout, its bound, and the gradient of the bound."""
    ids = torch.randint(0, VOCABULARY + 1, (ROWS, LENGTH), generator=rng(1))
    logits = denoiser.logits(ids, None, ids == MASK).detach()
    rollout = sampler(denoiser, LENGTH, steps=6).generate(*prompts(ROWS), rng())
    masking, nelbo = synced(num_draws=4)
    found = nelbo(denoiser, masking, *prompts(ROWS), rollout.ids, rng(2))
    found.sequence_bound.sum().backward()
    return logits, rollout, found, denoiser.model.linear.weight.grad


@pytest.mark.parametrize("head", [True, False])
def test_a_plain_tensor_and_an_object_with_logits_are_the_same_model(head):
    plain, holding = outcome(built(HandMade, head)), outcome(built(Holding, head))
    assert torch.equal(plain[0], holding[0]) and torch.equal(plain[3], holding[3]) and plain[3].norm() > 0.1
    assert torch.equal(plain[1].ids, holding[1].ids) and torch.equal(plain[1].commit_logps, holding[1].commit_logps)
    for field in fields(LikelihoodEstimate):
        assert torch.equal(getattr(plain[2], field.name), getattr(holding[2], field.name)), field.name


@pytest.mark.parametrize(
    ("output", "named"), [((torch.zeros(1),), "tuple"), (None, "NoneType"), (SimpleNamespace(logits=None), "Simple")]
)
def test_an_output_without_logits_is_named(output, named):
    model = TinyModel(VOCABULARY + 1)
    model.forward = lambda input_ids, attention_mask=None: output
    ids = torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(TypeError, match=rf"returned {named}.*: expected a tensor of logits .* \.logits"):
        ModelDenoiser(model, MASK).logits(ids, None, ids == 0)
