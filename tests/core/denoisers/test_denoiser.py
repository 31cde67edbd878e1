"""The seam: the projected rows are the rows of the full logits, shifted or not, and the model is left as it was."""

from types import SimpleNamespace

import pytest
import torch
from padded import ATTENTION, IDS, MASK_ID, ROWS, VOCABULARY
from torch import Tensor
from toys import ConstantDenoiser, TableDenoiser, TinyModel, rng

from core.denoisers import ModelDenoiser
from core.denoisers.denoiser import tempered_logps
from core.denoisers.projection import of_targets


def denoiser(head: bool, shift: bool = False) -> ModelDenoiser:
    model = TinyModel(VOCABULARY)
    return ModelDenoiser(model, MASK_ID, model.head if head else None, shift)


def reference(rows: torch.Tensor) -> torch.Tensor:
    """Full logits of the bare model at ``rows``, the mask token cut."""
    logits = TinyModel(VOCABULARY)(IDS, ATTENTION).logits[rows]
    logits[:, MASK_ID] = float("-inf")
    return logits


@pytest.mark.parametrize("head", [True, False])
def test_logits_are_the_full_logits_at_the_rows(head):
    assert torch.allclose(denoiser(head).logits(IDS, ATTENTION, ROWS), reference(ROWS), atol=1e-6)


@pytest.mark.parametrize("head", [True, False])
def test_shifted_logits_come_from_the_position_before(head):
    before = ROWS.nonzero() - torch.tensor([0, 1])
    expected = torch.stack([reference(torch.ones_like(ROWS)).view(4, 6, -1)[i, j] for i, j in before])
    assert torch.allclose(denoiser(head, shift=True).logits(IDS, ATTENTION, ROWS), expected, atol=1e-6)
    rows = ROWS.clone()
    rows[2, 0] = True
    with pytest.raises(ValueError, match="position 0"):
        denoiser(head, shift=True).logits(IDS, ATTENTION, rows)


def test_the_head_runs_on_the_chosen_rows_only():
    for head, expected in ((True, int(ROWS.sum())), (False, ROWS.numel())):
        wrapped = denoiser(head)
        wrapped.logits(IDS, ATTENTION, ROWS)
        assert wrapped.model.head_rows == [expected]


@pytest.mark.parametrize("head", [True, False])
def test_the_mask_token_is_never_predicted(head):
    wrapped = denoiser(head)
    with torch.no_grad():
        wrapped.model.head.bias[MASK_ID] = 1e6
    logps = wrapped.logits(IDS, None, ROWS).log_softmax(-1)
    assert bool((logps[:, MASK_ID] == float("-inf")).all())
    kept = torch.arange(VOCABULARY) != MASK_ID
    assert bool(torch.isfinite(logps[:, kept]).all())
    assert torch.allclose(logps.exp().sum(-1), torch.ones(len(logps)))


def test_the_hook_is_gone_afterwards_and_after_an_exception():
    wrapped = denoiser(head=True)
    hooks = wrapped.model.head._forward_pre_hooks
    wrapped.logits(IDS, ATTENTION, ROWS)
    assert not hooks
    with pytest.raises(IndexError):
        wrapped.logits(IDS + VOCABULARY, ATTENTION, ROWS)
    assert not hooks
    assert wrapped.model(IDS).logits.shape == (4, 6, VOCABULARY)


@pytest.mark.parametrize("shift", [False, True])
def test_gradients_are_those_of_the_full_logits(shift):
    gradients = []
    for head in (True, False):
        wrapped = denoiser(head, shift)
        logps = wrapped.logits(IDS, ATTENTION, ROWS).log_softmax(-1)
        logps[:, torch.arange(VOCABULARY) != MASK_ID].square().sum().backward()
        gradients.append([parameter.grad for parameter in wrapped.model.parameters()])
    for with_head, without in zip(*gradients, strict=True):
        assert bool(torch.isfinite(with_head).all()) and with_head.abs().max() > 0
        assert torch.allclose(with_head, without, rtol=1e-4, atol=1e-5)


def test_logits_are_float32_whatever_the_model():
    wrapped = denoiser(head=True)
    wrapped.model.bfloat16()
    assert wrapped.logits(IDS, ATTENTION, ROWS).dtype == torch.float32


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tempered_logps_are_the_normalised_power_of_the_probabilities(temperature):
    logits = torch.randn(5, 4, generator=rng())
    power = logits.softmax(-1) ** (1 / temperature)
    assert torch.allclose(tempered_logps(logits, temperature).exp(), power / power.sum(-1, keepdim=True), atol=1e-6)


def test_greedy_is_scored_at_temperature_one():
    logits = torch.randn(5, 4, generator=rng())
    assert torch.equal(tempered_logps(logits, 0.0), tempered_logps(logits, 1.0))


# ---- evaluation inside a training step ------------------------------------------------------------------------------


def modes(wrapped: ModelDenoiser) -> list[bool]:
    return [module.training for module in wrapped.model.modules()]


def mixed_modes() -> ModelDenoiser:
    """A model in training whose head is kept in eval mode, as a frozen part would be."""
    wrapped = denoiser(head=True)
    wrapped.model.train()
    wrapped.model.head.eval()
    assert len(set(modes(wrapped))) == 2
    return wrapped


def test_evaluating_turns_gradients_and_training_mode_off():
    wrapped = mixed_modes()
    with wrapped.evaluating():
        assert not torch.is_grad_enabled() and not any(modes(wrapped))
        assert not wrapped.logits(IDS, ATTENTION, ROWS).requires_grad
    assert torch.is_grad_enabled()


def test_every_submodule_returns_to_its_own_mode_even_after_an_exception():
    wrapped = mixed_modes()
    before = modes(wrapped)
    with wrapped.evaluating():
        pass
    assert modes(wrapped) == before
    with pytest.raises(RuntimeError, match="inside"), wrapped.evaluating():
        raise RuntimeError("inside")
    assert modes(wrapped) == before and torch.is_grad_enabled()


def test_evaluating_nests():
    wrapped = mixed_modes()
    before = modes(wrapped)
    with wrapped.evaluating():
        with wrapped.evaluating():
            pass
        assert not torch.is_grad_enabled() and not any(modes(wrapped))
    assert modes(wrapped) == before


def test_a_denoiser_without_a_model_evaluates_without_gradients():
    with TableDenoiser().evaluating():
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


# ---- embeddings -----------------------------------------------------------------------------------------------------


class EmbeddingModel(TinyModel):
    """`TinyModel` that takes embeddings for ids, as the models of transformers do."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> SimpleNamespace:
        hidden = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        seen = hidden if attention_mask is None else hidden * attention_mask.unsqueeze(-1)
        return SimpleNamespace(logits=self.head(torch.tanh(hidden + seen.sum(dim=1, keepdim=True))))


def embedding_denoiser(head: bool = True, shift: bool = False) -> ModelDenoiser:
    model = EmbeddingModel(VOCABULARY)
    return ModelDenoiser(model, MASK_ID, model.head if head else None, shift, model.embedding)


def test_embedding_rows_have_unit_root_mean_square_and_no_gradient():
    wrapped = embedding_denoiser()
    weight = wrapped.model.embedding.weight
    with torch.no_grad():
        weight[2] *= 1e4
        weight[5] = 0.0  # a padding token
    table = wrapped.embedding_table()
    power = table.square().mean(dim=1)
    assert torch.allclose(power, (torch.arange(VOCABULARY) != 5).float())
    cosine = torch.nn.functional.cosine_similarity(table, weight, dim=1)
    assert torch.allclose(cosine, power)
    assert table.dtype == torch.float32 and not table.requires_grad


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("head", [True, False])
def test_embeddings_of_tokens_give_the_logits_of_the_tokens(head, shift):
    wrapped = embedding_denoiser(head, shift)
    with torch.no_grad():  # an embedding on the scale of its table
        wrapped.model.embedding.weight.copy_(wrapped.embedding_table())
    embeddings = wrapped.embedding_table()[IDS].requires_grad_()
    from_embeddings = wrapped.logits_from_embeddings(embeddings, ATTENTION, ROWS)
    assert torch.allclose(from_embeddings, wrapped.logits(IDS, ATTENTION, ROWS), atol=1e-5)
    assert bool((from_embeddings[:, MASK_ID] == float("-inf")).all())
    from_embeddings[:, 0].sum().backward()
    assert embeddings.grad is not None and embeddings.grad.abs().sum() > 0


def test_embeddings_reach_the_model_in_its_own_precision():
    wrapped = embedding_denoiser()
    wrapped.model.bfloat16()
    assert wrapped.embedding_table().dtype == torch.float32
    logits = wrapped.logits_from_embeddings(wrapped.embedding_table()[IDS], ATTENTION, ROWS)
    assert logits.dtype == torch.float32


def test_embeddings_of_an_unnamed_module_are_an_error():
    wrapped = denoiser(head=True)
    for ask in (wrapped.embedding_table, lambda: wrapped.logits_from_embeddings(torch.zeros(4, 6, 6), None, ROWS)):
        with pytest.raises(ValueError, match="input embedding"):
            ask()


# ---- log-probabilities of given tokens ------------------------------------------------------------------------------

TARGETS = torch.randint(MASK_ID + 1, VOCABULARY, (int(ROWS.sum()),), generator=rng(2))


def expected_values(wrapped: ModelDenoiser, temperature: float = 0.7) -> tuple[Tensor, Tensor]:
    return of_targets(tempered_logps(wrapped.logits(IDS, ATTENTION, ROWS), temperature), TARGETS)


def assert_scores_as_from_logits(wrapped: ModelDenoiser) -> None:
    """Values and gradients of `token_logps` are those of `logits`."""
    gradients = []
    for logps, entropies in (expected_values(wrapped), wrapped.token_logps(IDS, ATTENTION, ROWS, TARGETS, 0.7)):
        assert not entropies.requires_grad
        wrapped.model.zero_grad()
        logps.square().sum().backward()
        gradients.append([logps.detach(), entropies, *(p.grad for p in wrapped.model.parameters())])
    for expected, found in zip(*gradients, strict=True):
        assert expected.abs().max() > 0 and torch.allclose(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("head", [True, False])
def test_log_probs_of_given_tokens_are_those_of_the_logits(head, shift):
    assert_scores_as_from_logits(denoiser(head, shift))


def test_shifted_scores_need_a_token_before():
    with pytest.raises(ValueError, match="position 0"):
        denoiser(head=True, shift=True).token_logps(IDS, ATTENTION, ROWS | True, TARGETS, 1.0)


def test_scoring_projects_the_chosen_rows_only_and_returns_no_logits():
    wrapped = denoiser(head=True)
    seen = []
    wrapped.model.register_forward_hook(lambda _, args, output: seen.append(output.logits.shape))
    for _ in range(2):
        wrapped.token_logps(IDS, ATTENTION, ROWS, TARGETS, 1.0)
    rows = int(ROWS.sum())
    assert seen == [(1, VOCABULARY), (rows, 2), (rows, 2)], "one sequence and position, once, to look at the head"
    assert wrapped.model.head_rows == [1, rows, rows]


def test_the_head_is_itself_again_afterwards_and_after_an_exception():
    wrapped = denoiser(head=True)
    wrapped.token_logps(IDS, ATTENTION, ROWS, TARGETS, 1.0)
    with pytest.raises(IndexError):
        wrapped.token_logps(IDS + VOCABULARY, ATTENTION, ROWS, TARGETS, 1.0)
    assert "forward" not in vars(wrapped.model.head)
    own = wrapped.model.head.forward
    wrapped.model.head.forward = own  # as a library leaves it that patched the instance
    wrapped.token_logps(IDS, ATTENTION, ROWS, TARGETS, 1.0)
    assert vars(wrapped.model.head)["forward"] is own
    assert wrapped.model(IDS).logits.shape == (4, 6, VOCABULARY)


REWORK = {
    "softcap": lambda logits: 2 * torch.tanh(logits / 2),
    "scale": lambda logits: logits * 0.3,
    "scale in place": lambda logits: logits.mul_(0.3),
    "bias": lambda logits: logits + torch.arange(VOCABULARY),
    "cut": lambda logits: logits[..., : VOCABULARY - 1],
}


@pytest.mark.parametrize("rework", REWORK)
def test_a_model_that_reworks_its_logits_is_scored_on_what_it_returns(rework):
    class Reworking(TinyModel):
        def forward(self, *args, **kwargs) -> SimpleNamespace:
            return SimpleNamespace(logits=REWORK[rework](super().forward(*args, **kwargs).logits))

    model = Reworking(VOCABULARY)
    wrapped = ModelDenoiser(model, MASK_ID, model.head)
    if rework == "cut":
        targets = TARGETS.clamp(max=VOCABULARY - 2)
        expected = of_targets(tempered_logps(wrapped.logits(IDS, ATTENTION, ROWS), 0.7), targets)
        assert torch.equal(wrapped.token_logps(IDS, ATTENTION, ROWS, targets, 0.7)[0], expected[0])
        return
    assert_scores_as_from_logits(wrapped)


def test_looking_at_the_head_leaves_the_random_state_alone():
    class Dropping(TinyModel):
        def forward(self, *args, **kwargs) -> SimpleNamespace:
            torch.rand(5)
            return super().forward(*args, **kwargs)

    states, model = [], Dropping(VOCABULARY)
    for _ in range(2):  # the second time nobody looks
        torch.manual_seed(0)
        ModelDenoiser(model, MASK_ID, model.head).token_logps(IDS, ATTENTION, ROWS, TARGETS, 1.0)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_a_denoiser_without_a_head_of_its_own_scores_from_its_logits():
    ids, rows = torch.zeros(2, 4, dtype=torch.int64), torch.ones(2, 4, dtype=torch.bool)
    targets = torch.zeros(8, dtype=torch.int64)
    logps, entropies = ConstantDenoiser([0.0, 0.0]).token_logps(ids, None, rows, targets, 1.0)
    half = torch.full((8,), 0.5).log()
    assert torch.allclose(logps, half) and torch.allclose(entropies, -half)
