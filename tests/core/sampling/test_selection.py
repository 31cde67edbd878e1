"""A rule is exact iff it does not look at the drawn token."""

import pytest
import torch
from toys import ConstantDenoiser, assert_mean, prompts, rng, sampler

from core.sampling import SELECTIONS
from core.sampling.prediction import Prediction

P = torch.tensor([[0.7, 0.2, 0.1, 0.0], [0.4, 0.4, 0.2, 0.0], [0.25, 0.25, 0.25, 0.25]])
DRAWN = torch.tensor([2, 0, 3])


class Drawn(Prediction):
    """The distributions P, with given tokens in place of drawn ones."""

    def __init__(self, tokens: torch.Tensor):
        super().__init__(P.log(), 1.0, u=None)
        self.tokens = tokens


def chance() -> torch.Tensor:
    return torch.rand(3, generator=rng())


every_rule = pytest.mark.parametrize("rule", SELECTIONS)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("low_confidence", torch.tensor([0.1, 0.4, 0.25]).log()),
        ("top1", torch.tensor([0.7, 0.4, 0.25]).log()),
        ("entropy", torch.tensor([-0.801819, -1.054920, -1.386294])),
        ("margin", torch.tensor([0.5, 0.0, 0.0])),
    ],
)
def test_scores_have_their_closed_forms(rule, expected):
    assert torch.allclose(SELECTIONS[rule].score(Drawn(DRAWN), chance), expected, atol=1e-5)


@every_rule
def test_a_rule_is_exact_iff_its_score_ignores_the_drawn_token(rule):
    selection = SELECTIONS[rule]
    scores = [selection.score(Drawn(tokens), chance) for tokens in (DRAWN, torch.tensor([0, 2, 1]))]
    assert torch.equal(*scores) == selection.exact
    assert bool(torch.isfinite(scores[0]).all())  # a token of probability 0 is no trouble


@every_rule
def test_the_argmax_is_committed_at_its_own_probability_iff_the_rule_is_exact(rule):
    logits = [1.0, 0.3, 0.0, -0.2, -0.5]
    nominal = torch.tensor(logits).softmax(0)[0].item()
    generator = sampler(ConstantDenoiser(logits), 32, "linear", 32, (0.0, 1.0), selection=rule)
    rows = 1500
    out = generator.generate(*prompts(rows), rng())
    earliest = out.step_map.argmin(dim=1)  # of 32 positions one is committed in the first step
    is_argmax = (out.ids[torch.arange(rows), earliest] == 0).double()
    if SELECTIONS[rule].exact:
        assert_mean(is_argmax, nominal)
    else:
        assert is_argmax.mean().item() > nominal + 0.4
