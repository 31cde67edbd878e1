"""However many states go into one forward, values and gradients are the same; and a group keeps no activations."""

from types import SimpleNamespace

import pytest
import torch
from estimating import SELECTIONS, build, draw, rollouts
from torch import Tensor
from toys import MASK, VOCABULARY, TinyModel, prompts

from core.denoisers import ModelDenoiser
from core.likelihoods import ESTIMATORS
from core.scoring import LikelihoodEstimate

ROWS = 3
DRAWS = {"coupled": 5, "one_step": 2}  # of the others 4


class Counting(TinyModel):
    """Notes how many states each forward has."""

    def __init__(self):
        super().__init__(VOCABULARY + 1)
        self.states: list[int] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
        self.states.append(input_ids.size(0))
        return super().forward(input_ids, attention_mask)


def scored(
    name: str, group: int | None, kind: type[ModelDenoiser] = ModelDenoiser
) -> tuple[LikelihoodEstimate, Counting]:
    """An estimate on the same states whatever ``group``, and the model that it was made by."""
    likelihood, masking = build(name, num_draws=DRAWS.get(name, 4))
    likelihood.states_per_forward = group
    _, trajectory = rollouts(ROWS, SELECTIONS.get(name, "top1"))
    model = Counting()
    denoiser = kind(model, MASK, model.head)
    denoiser.token_logps(trajectory.ids, None, trajectory.ids == 0, trajectory.ids[trajectory.ids == 0], 1.0)
    model.states.clear()  # the first call of all looks whether the head is the last step
    ids, draws = likelihood.canvas(trajectory), draw(likelihood, masking, trajectory)
    return likelihood.score(denoiser, *prompts(ROWS), ids, draws, 0.8), model


def gradient(estimate: LikelihoodEstimate, model: Counting) -> Tensor:
    (estimate.sequence_bound.sum() + estimate.per_token_logps.square().sum()).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("group", [1, 2, 5, 1000])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_streamed_and_packed_have_equal_values_and_gradients(name, group):
    packed, streamed = scored(name, None), scored(name, group)
    for field, expected in vars(packed[0]).items():
        found = getattr(streamed[0], field)
        assert torch.allclose(found, expected, atol=1e-5, rtol=1e-5, equal_nan=True), field
    expected = gradient(*packed)
    assert expected.norm() > 0.1
    assert torch.allclose(gradient(*streamed), expected, atol=1e-5, rtol=1e-5)


def test_groups_are_forwarded_once_for_their_values_and_once_more_in_the_backward_pass():
    estimate, model = scored("monte_carlo", 5)
    assert model.states == [5, 5, 2]
    gradient(estimate, model)
    assert sorted(model.states[3:]) == [2, 5, 5]
    estimate, model = scored("monte_carlo", None)
    gradient(estimate, model)
    assert model.states == [12]


def test_without_gradients_groups_are_forwarded_once():
    with torch.no_grad():
        estimate, model = scored("monte_carlo", 5)
    assert model.states == [5, 5, 2] and not estimate.sequence_bound.requires_grad


def test_a_wrapper_sees_the_first_forward_alone():
    """DDP takes a forward call for the start of a step: one in the backward pass would undo its bookkeeping."""
    outer, inner = [], []

    class Wrapped(ModelDenoiser):
        def token_logps(self, *args, **kwargs):
            outer.append(torch.is_grad_enabled())
            return super().token_logps(*args, **kwargs)

        def beneath_wrapper(self):
            return Inner(self.model, self.mask_id, self.head)

    class Inner(ModelDenoiser):
        def token_logps(self, *args, **kwargs):
            inner.append(1)
            return super().token_logps(*args, **kwargs)

    estimate, model = scored("monte_carlo", 5, Wrapped)
    outer.pop(0)  # the look at the head
    assert len(outer) == 1 and len(inner) == 2
    gradient(estimate, model)
    assert len(outer) == 1 and len(inner) == 5
