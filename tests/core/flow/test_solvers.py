"""Solvers of the flow have their orders, and a row goes its own way whatever stands beside it."""

import math

import pytest
import torch
from flows import EVALUATIONS, D, L, every_solver
from torch import Tensor
from toys import assert_mean, rng

from core.flow.solvers import ODE_SOLVERS, carry, moments
from core.sampling import SOLVERS

# ---- exponential integration ----------------------------------------------------------------------------------------


def test_moments_equal_their_integrals():
    nodes, weights = legendre(60)
    for rho in (0.02, 0.1, 0.5, 0.9, 0.999):
        s = rho + (1 - rho) * nodes  # sigma_s is 1
        for k, moment in enumerate(moments(torch.tensor([rho], dtype=torch.float64))):
            integral = rho * (1 - rho) * (weights * (s - 1) ** k / s**2).sum()
            assert math.isclose(moment.item(), integral.item(), rel_tol=1e-9, abs_tol=1e-15), (rho, k)


def legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss's rule on [0, 1], from the eigenvalues of Jacobi's matrix (Golub & Welsch 1969)."""
    k = torch.arange(1, count, dtype=torch.float64)
    side = k / (4 * k**2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(side, 1) + torch.diag(side, -1))
    return (values + 1) / 2, vectors[0] ** 2


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_a_step_is_exact_where_the_prediction_is_a_polynomial_in_sigma(degree):
    """xhat = a + b s + c s^2 has the solution z = a - b s ln s - c s^2 + K s, from any s down to 0."""
    a, b, c, K = torch.randn(4, 1, L, D, generator=rng(), dtype=torch.float64)
    b, c = b * (degree > 0), c * (degree > 1)

    def xhat(s: Tensor) -> Tensor:
        s = s.view(-1, 1, 1)
        return a + b * s + c * s**2

    def solution(s: Tensor) -> Tensor:
        s = s.view(-1, 1, 1)
        return a - b * torch.special.xlogy(s, s) - c * s**2 + K * s

    start = torch.tensor([0.9, 0.9, 0.4, 1.0], dtype=torch.float64)
    to = torch.tensor([0.5, 0.0, 0.1, 0.98], dtype=torch.float64)
    # As a predictor meets them (two points behind), and as a corrector does (the far end and one behind).
    for second, third in ((start + 0.05, start + 0.2), (to, start + 0.1)):
        nodes = [(s, xhat(s)) for s in (start, second, third)[: degree + 1]]
        assert torch.allclose(carry(solution(start), to, nodes), solution(to), atol=1e-12)


def test_the_step_to_the_data_extrapolates_the_prediction():
    sigma, before, zero = (torch.full((2,), value, dtype=torch.float64) for value in (0.2, 0.5, 0.0))
    z, now, earlier = torch.randn(3, 2, L, D, generator=rng(), dtype=torch.float64)
    assert torch.allclose(carry(z, zero, [(sigma, now)]), now)
    expected = now + (now - earlier) / (0.2 - 0.5) * (0 - 0.2)
    assert torch.allclose(carry(z, zero, [(sigma, now), (before, earlier)]), expected)


# ---- solvers --------------------------------------------------------------------------------------------------------

# Data of four widths, so that errors of different sign and size show.
MEAN, DATA_STD, NOISE_STD = 0.7, torch.tensor([0.2, 0.6, 1.0, 2.0], dtype=torch.float64), 1.3


def gaussian_std(sigma: Tensor) -> Tensor:
    return ((1 - sigma) ** 2 * DATA_STD**2 + sigma**2 * NOISE_STD**2).sqrt()


def gaussian_posterior(z: Tensor, sigma: Tensor, active: Tensor) -> Tensor:
    """E[x | z] for normal data and normal noise around 0."""
    s = sigma.view(-1, 1, 1)
    gain = (1 - s) * DATA_STD**2 / gaussian_std(s) ** 2
    return MEAN + gain * (z - (1 - s) * MEAN)


def gaussian_path(z: Tensor, sigma: Tensor, to: Tensor) -> Tensor:
    """The exact flow: a path keeps its number of standard deviations from the mean of its level."""
    s, t = sigma.view(-1, 1, 1), to.view(-1, 1, 1)
    return (1 - t) * MEAN + gaussian_std(t) / gaussian_std(s) * (z - (1 - s) * MEAN)


def uneven(steps: int, end: float) -> Tensor:
    """A grid from 1 to ``end`` whose steps differ fourfold."""
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return 1 + (end - 1) * (0.4 * u + 0.6 * u**2)


@pytest.mark.parametrize(
    "solver, least, most", [("euler", 0.9, 1.1), ("dpm", 1.8, 2.3), ("unipc", 2.8, 3.3), ("rk4", 3.8, 4.4)]
)
def test_order_of_the_solver(solver, least, most):
    z = NOISE_STD * torch.randn(3, 2, 4, generator=rng(), dtype=torch.float64)
    counts, errors = torch.tensor([32.0, 64.0, 128.0]), []
    for count in counts:
        grid = uneven(int(count), 0.2).expand(3, -1)
        found = ODE_SOLVERS[solver](gaussian_posterior, z, grid)
        errors.append((found - gaussian_path(z, grid[:, 0], grid[:, -1])).abs().max())
    x, y = -counts.log(), torch.stack(errors).log().float()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    assert least < slope < most, (slope, errors)


@every_solver
def test_the_flow_of_the_exact_posterior_reproduces_the_law_of_the_data(solver):
    """Tokens at -1 and 1 with chances .3 and .7; standard normal noise is carried to them in these shares."""
    tokens, chances = torch.tensor([-1.0, 1.0], dtype=torch.float64), torch.tensor([0.3, 0.7], dtype=torch.float64)

    def posterior(z: Tensor, sigma: Tensor, active: Tensor) -> Tensor:
        s = sigma.view(-1, 1, 1)
        likelihood = -((z - (1 - s) * tokens) ** 2) / (2 * s**2)  # (B, 1, 2)
        return (likelihood + chances.log()).softmax(dim=2) @ tokens.view(2, 1)

    z = torch.randn(4000, 1, 1, generator=rng(), dtype=torch.float64)
    found = ODE_SOLVERS[solver](posterior, z, uneven(100, 0.0).expand(4000, -1)).flatten()
    assert bool(((found.abs() - 1).abs() < 1e-6).all())
    assert_mean((found > 0).double(), 0.7)


@every_solver
def test_a_prediction_that_knows_the_data_carries_noise_onto_it(solver):
    data, z = torch.randn(2, 1, L, D, generator=rng(), dtype=torch.float64)
    found = ODE_SOLVERS[solver](lambda z, sigma, active: data.expand_as(z), z, uneven(5, 0.0).unsqueeze(0))
    assert torch.allclose(found, data, atol=1e-12)


class Counted:
    """The normal posterior, counting calls; refuses to be asked about nothing and leaves idle rows at 0."""

    def __init__(self):
        self.sigmas: list[Tensor] = []
        self.active: list[Tensor] = []

    def __call__(self, z: Tensor, sigma: Tensor, active: Tensor) -> Tensor:
        assert bool(active.any()) and bool((sigma[active] > 0).all())
        self.sigmas.append(sigma)
        self.active.append(active)
        return gaussian_posterior(z, sigma, active) * active.view(-1, 1, 1)


@pytest.mark.parametrize("end", [0.0, 0.1])
@every_solver
def test_evaluations_a_step(solver, end):
    counted = Counted()
    ODE_SOLVERS[solver](counted, torch.zeros(1, 1, 4, dtype=torch.float64), uneven(6, end).unsqueeze(0))
    last_step_is_euler = solver == "rk4" and end == 0
    assert len(counted.sigmas) == 6 * EVALUATIONS[solver] - 3 * last_step_is_euler


@pytest.mark.parametrize("end", [0.0, 0.1])
@every_solver
def test_a_padded_row_equals_the_same_row_alone(solver, end):
    grids = [uneven(6, end), uneven(3, end), uneven(1, end)]
    padded = torch.stack([torch.cat([g, g[-1:].expand(7 - len(g))]) for g in grids])
    z = torch.randn(3, L, 4, generator=rng(), dtype=torch.float64)
    counted = Counted()
    together = ODE_SOLVERS[solver](counted, z, padded)
    assert bool(torch.isfinite(together).all())
    for row, grid in enumerate(grids):
        alone = Counted()
        assert torch.equal(together[row], ODE_SOLVERS[solver](alone, z[row : row + 1], grid.unsqueeze(0))[0])
        assert sum(int(active[row]) for active in counted.active) == len(alone.sigmas)


@every_solver
def test_a_row_that_has_arrived_stays(solver):
    z = torch.randn(2, L, 4, generator=rng(), dtype=torch.float64)
    grid = torch.stack([torch.full((4,), 0.3, dtype=torch.float64), torch.linspace(0.9, 0.3, 4, dtype=torch.float64)])
    found = ODE_SOLVERS[solver](gaussian_posterior, z, grid)
    assert torch.equal(found[0], z[0]) and not torch.allclose(found[1], z[1])


def test_masks_and_flows_have_solvers_of_the_same_names():
    assert ODE_SOLVERS.keys() == SOLVERS.keys()
