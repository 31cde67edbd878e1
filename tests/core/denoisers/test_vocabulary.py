"""Rows without a token have no probability, whichever way a distribution is made; nothing else changes."""

import pytest
import torch
from toys import TinyModel, rng

from core.denoisers import ModelDenoiser, UnpaddedDenoiser
from core.denoisers.vocabulary import all_but, exclude

ROWS, MASK_ID = 12, 4  # of the vocabulary: tokens 2 and 3 are a hole, 9 to 11 are spare
TEXT = [0, 1, 5, 6, 7, 8]
NEVER = all_but(TEXT)
IDS = torch.randint(0, ROWS, (3, 6), generator=rng(1))
WHERE = torch.tensor([[False, True, False, True, True, False]] * 3)


class Open(TinyModel):
    """One that takes embeddings, too."""

    def forward(self, input_ids=None, inputs_embeds=None, attention_mask=None):
        hidden = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        return self.head(torch.tanh(hidden + hidden.sum(dim=1, keepdim=True)))


def denoiser(never=NEVER, head: bool = True) -> ModelDenoiser:
    model = Open(ROWS)
    return ModelDenoiser(model, MASK_ID, model.head if head else None, embedding=model.embedding, never=never)


@pytest.mark.parametrize(
    ("known", "never"),
    [
        ([0, 1, 2], [slice(3, None)]),
        ([0, 1, 3], [slice(2, 3), slice(4, None)]),
        ([5, 2, 2], [slice(0, 2), slice(3, 5), slice(6, None)]),
        ([], [slice(0, None)]),
    ],
)
def test_what_is_no_token_is_listed_in_ranges(known, never):
    assert list(all_but(known)) == never


@pytest.mark.parametrize("gradient", [False, True])
def test_logits_are_excluded_where_there_is_no_token_and_kept_elsewhere(gradient):
    given = torch.randn(5, ROWS, generator=rng())
    found = exclude(given.clone().requires_grad_(gradient), NEVER)
    assert torch.equal(found[:, TEXT], given[:, TEXT])
    rest = [token for token in range(ROWS) if token not in TEXT]
    assert bool((found[:, rest] == -torch.inf).all())


def ways(one: ModelDenoiser) -> dict[str, torch.Tensor]:
    """Logits by every way into the model."""
    columns = torch.tensor([[1, 3, 4]] * 3)
    return {
        "logits": one.logits(IDS, None, WHERE),
        "columns": one.logits_at(IDS, None, columns),
        "embeddings": one.logits_from_embeddings(one.embedding_table()[IDS], None, WHERE),
        "unpadded": UnpaddedDenoiser(one).logits(IDS, None, WHERE),
    }


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("gradient", [True, False])
def test_every_way_into_a_model_excludes_the_same(head, gradient):
    with torch.set_grad_enabled(gradient):
        for name, logits in ways(denoiser(head=head)).items():
            impossible = (logits == -torch.inf).all(dim=0).nonzero().flatten().tolist()
            assert impossible == [token for token in range(ROWS) if token not in TEXT], name


@pytest.mark.parametrize("head", [True, False])
def test_the_loss_scores_by_the_law_that_is_drawn_from(head):
    """Targets, entropies and the gradient of what is scored, against the logits that a rollout sees."""
    one, targets = denoiser(head=head), torch.tensor(TEXT).repeat(2)[: int(WHERE.sum())]
    logps, entropies = one.token_logps(IDS, None, WHERE, targets, 0.7)
    whole = (one.logits(IDS, None, WHERE)[:, TEXT] / 0.7).log_softmax(dim=1)
    column = torch.tensor([TEXT.index(token) for token in targets.tolist()])
    expected = whole.gather(1, column.unsqueeze(1)).squeeze(1)
    assert torch.allclose(logps, expected, atol=1e-5)
    assert torch.allclose(entropies, -(whole.exp() * whole).sum(dim=1), atol=1e-5)
    weights = list(one.model.parameters())
    found, wanted = (torch.autograd.grad(values.sum(), weights) for values in (logps, expected))
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(found, wanted, strict=True))


def test_a_target_without_a_token_is_impossible():
    logps, _ = denoiser().token_logps(IDS, None, WHERE, torch.full((int(WHERE.sum()),), 10), 1.0)
    assert bool((logps == -torch.inf).all())


def test_the_mask_token_alone_is_excluded_unless_told_otherwise():
    logits = denoiser(never=None).logits(IDS, None, WHERE)
    assert (logits == -torch.inf).any(dim=0).nonzero().flatten().tolist() == [MASK_ID]
