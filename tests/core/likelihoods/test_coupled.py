"""Coupled masks against their expectation, by quadrature over the rate."""

import torch
from estimating import IDS, LENGTH, build, draw, rollouts, sampled_bounds
from toys import PROMPT, TableDenoiser, assert_mean

from core.likelihoods.quadrature import gauss_legendre
from core.oracles.exact import conditional_logps, subsets


def test_expectation_of_coupled_masks_is_what_its_docstring_says():
    table = conditional_logps(TableDenoiser(), PROMPT, IDS)
    masked = subsets(LENGTH)
    level, weight = gauss_legendre(6)  # E over r ~ U(.2, .8) of E(l_k | k hidden at rate r), a polynomial in r
    rate = (0.2 + 0.6 * level).unsqueeze(1)
    others = masked.sum(dim=1) - 1
    chance = torch.where(others >= 0, rate**others * (1 - rate) ** (LENGTH - 1 - others), 0.0)
    conditional = (weight @ chance @ table).sum()
    for pairs in (1, 2):
        bounds = sampled_bounds("coupled", IDS, num_draws=1 + 2 * pairs)
        expected = -(table[-1].sum() + 2 * pairs * conditional) / (pairs + 1)
        assert_mean(bounds, expected.item())
    likelihood, masking = build("coupled")
    scored = draw(likelihood, masking, rollouts(20)[1]).scored
    assert bool((scored.sum(dim=1) == 2).all()), "each token in the full mask and in one of the pair"
