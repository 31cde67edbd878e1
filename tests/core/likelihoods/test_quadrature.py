"""Gauss nodes against numpy's, the any-order bound, and the bias of too few nodes."""

import numpy as np
import pytest
from estimating import IDS, LENGTH, assert_estimates_the_any_order_bound, sampled_bounds
from toys import PROMPT, TableDenoiser, assert_mean

from core.likelihoods.quadrature import gauss_legendre
from core.oracles.exact import any_order_average, conditional_logps, subsets


@pytest.mark.parametrize("num_draws", [2, 3])  # exact from L / 2 = 2 nodes on
def test_expectation_is_the_any_order_bound(num_draws):
    assert_estimates_the_any_order_bound("quadrature", num_draws=num_draws)


def test_quadrature_of_too_few_nodes_is_biased_and_by_how_much_is_known():
    table = conditional_logps(TableDenoiser(), PROMPT, IDS)
    size = subsets(LENGTH).sum(dim=1)

    def rule(nodes: int) -> float:
        level, weight = gauss_legendre(nodes)
        chance = level.unsqueeze(1) ** size * (1 - level.unsqueeze(1)) ** (LENGTH - size)
        return -((weight / level) @ chance @ table.sum(dim=1)).item()

    exact = any_order_average(table).item()
    assert rule(2) == pytest.approx(exact, rel=1e-12) and rule(3) == pytest.approx(exact, rel=1e-12)
    assert abs(rule(1) - exact) > 0.01
    assert_mean(sampled_bounds("quadrature", IDS, num_draws=1), rule(1))


@pytest.mark.parametrize("nodes", [1, 2, 3, 8])
def test_gauss_nodes_are_numpys(nodes):
    values, weights = np.polynomial.legendre.leggauss(nodes)
    found = gauss_legendre(nodes)
    assert np.allclose(found[0].numpy(), (values + 1) / 2) and np.allclose(found[1].numpy(), weights / 2)
