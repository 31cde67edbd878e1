"""Solvers of the flow's ODE, dz/dsigma = (z - xhat)/sigma, from noise (sigma = 1) down to data (sigma = 0).

A *solver* takes `Predict`, which gives xhat at a state, and the levels of sigma of each row. All but `rk4` are
*exponential integrators*: xhat is taken as a polynomial in sigma over a step, and `carry` solves the step exactly. The
polynomial goes through *nodes*, the points at which xhat is known. `ODE_SOLVERS` lists them by the names that
`core.sampling.solvers` gives to the same ideas on masks.

Sources: DPM-Solver++ (Lu et al. 2022, 2211.01095), UniPC (Zhao et al. 2023, 2302.04867).
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.flow.path import EmbeddingFlow

# (z (B, L, d), sigma (B,), active (B,)) -> xhat (B, L, d); anything finite in rows that are not active.
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
Node = tuple[Tensor, Tensor]  # sigma (B,) and xhat (B, L, d) there


def moments(
    rho: Float[Tensor, " B"],
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"], Float[Tensor, " B"]]:
    """m_k / sigma_s^k with m_k = sigma_t * integral from sigma_t to sigma_s of (s - sigma_s)^k s^-2 ds, k = 0, 1, 2.

    ``rho`` is sigma_t / sigma_s in [0, 1]; rho = 0, the step to the data, needs no special case.
    """
    log_term = torch.special.xlogy(rho, rho)
    return 1 - rho, rho - 1 - log_term, 1 - rho**2 + 2 * log_term


def carry(z: Float[Tensor, "B L d"], to: Float[Tensor, " B"], nodes: list[Node]) -> Float[Tensor, "B L d"]:
    """Solve dz/dsigma = (z - xhat)/sigma exactly for xhat a polynomial in sigma (an exponential integrator).

    z / sigma has the derivative -xhat / sigma^2, so z_t = rho z_s + sum_k c_k m_k for xhat = sum_k c_k (s - s0)^k. The
    polynomial is Newton's through the nodes. A row that is at ``to`` already stays as it is.

    Args:
        z: state at the first node's sigma, (B, L, d).
        to: sigma to arrive at, no larger, (B,).
        nodes: one to three points of the prediction; the first one at z.
    """
    start = nodes[0][0]
    rho = torch.where(start > 0, to / start.clamp(min=torch.finfo(start.dtype).tiny), 1.0)
    m0, m1, m2 = (moment * start**k for k, moment in enumerate(moments(rho)))
    weights = [m0, m1]  # of 1, of (s - s0), and of (s - s0)(s - s1) = (s - s0)^2 + (s0 - s1)(s - s0)
    if len(nodes) == 3:
        weights.append(m2 + (start - nodes[1][0]) * m1)
    arrived = _per_row(rho, z) * z
    for weight, coefficient in zip(weights, _divided_differences(nodes), strict=False):
        arrived = arrived + _per_row(weight, z) * coefficient
    return arrived


def _divided_differences(nodes: list[Node]) -> list[Tensor]:
    """[x0], [x0, x1], [x0, x1, x2] of Newton's interpolation; 0 between nodes that coincide."""
    column, leading = [value for _, value in nodes], []
    for order in range(1, len(nodes) + 1):
        leading.append(column[0])
        gaps = [near - far for (near, _), (far, _) in zip(nodes, nodes[order:], strict=False)]
        column = [
            (near - far) * _per_row(torch.where(gap == 0, 0.0, 1 / gap), near)
            for (near, far), gap in zip(pairwise(column), gaps, strict=True)
        ]
    return leading


def _per_row(value: Float[Tensor, " B"], like: Float[Tensor, "B L d"]) -> Float[Tensor, "B 1 1"]:
    return value.to(like.dtype).view(-1, 1, 1)


def euler(predict: Predict, z: Float[Tensor, "B L d"], sigmas: Float[Tensor, "B S"]) -> Float[Tensor, "B L d"]:
    """xhat constant over a step (DDIM). Order 1."""
    for now, to in pairwise(sigmas.unbind(1)):
        z = carry(z, to, [(now, predict(z, now, to < now))])
    return z


def dpm(predict: Predict, z: Float[Tensor, "B L d"], sigmas: Float[Tensor, "B S"]) -> Float[Tensor, "B L d"]:
    """xhat continued linearly from the last two points (DPM-Solver++ 2M, Lu et al. 2022, 2211.01095). Order 2."""
    nodes: list[Node] = []
    for now, to in pairwise(sigmas.unbind(1)):
        nodes = [(now, predict(z, now, to < now)), *nodes[:1]]
        z = carry(z, to, nodes)
    return z


def unipc(predict: Predict, z: Float[Tensor, "B L d"], sigmas: Float[Tensor, "B S"]) -> Float[Tensor, "B L d"]:
    """`dpm` as predictor; the prediction at the point it reached also redoes the step that led there (UniPC-2).

    The redone step takes the parabola through the new and the last two predictions (Zhao et al. 2023, 2302.04867). The
    same prediction starts the next step: one evaluation a step. The last step is not redone, so z ends where a longer
    walk would be evaluated next. Order 3.
    """
    nodes: list[Node] = []
    before = z
    for now, to in pairwise(sigmas.unbind(1)):
        going = to < now
        reached = (now, predict(z, now, going))
        if nodes:
            z = torch.where(going.view(-1, 1, 1), carry(before, now, [nodes[0], reached, *nodes[1:]]), z)
        nodes = [reached, *nodes[:1]]
        before, z = z, carry(z, to, nodes)
    return z


def rk4(predict: Predict, z: Float[Tensor, "B L d"], sigmas: Float[Tensor, "B S"]) -> Float[Tensor, "B L d"]:
    """The classical Runge-Kutta method on dz/dsigma. Order 4; a step to 0, where v is singular, is `euler`'s."""
    for now, to in pairwise(sigmas.unbind(1)):
        middle, step = (now + to) / 2, _per_row(to - now, z)
        xhat = predict(z, now, to < now)
        arrived = carry(z, to, [(now, xhat)])
        inside = (to > 0) & (to < now)
        if bool(inside.any()):
            k1 = (z - xhat) / _per_row(now.where(inside, 1.0), z)
            k2 = _slope(predict, z + step / 2 * k1, middle, inside)
            k3 = _slope(predict, z + step / 2 * k2, middle, inside)
            k4 = _slope(predict, z + step * k3, to, inside)
            arrived = torch.where(inside.view(-1, 1, 1), z + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4), arrived)
        z = arrived
    return z


def _slope(
    predict: Predict, z: Float[Tensor, "B L d"], sigma: Float[Tensor, " B"], active: Bool[Tensor, " B"]
) -> Float[Tensor, "B L d"]:
    """dz/dsigma in the active rows, something finite in the others."""
    return (z - predict(z, sigma, active)) / _per_row(sigma.where(active, 1.0), z)


# (predict, z (B, L, d), sigmas (B, S + 1)) -> z at the last sigma of each row. sigmas fall along a row; a row that has
# fewer steps than others repeats its last one at the end, and then neither changes nor asks for predictions.
ODE_SOLVERS: dict[str, Callable[[Predict, Tensor, Tensor], Tensor]] = {
    "euler": euler,
    "dpm": dpm,
    "unipc": unipc,
    "rk4": rk4,
}


def check_solver(option: str, solver: str) -> None:
    """Raises ValueError, with the known names, unless ``solver`` is one of them; ``option`` is where it was set."""
    if solver not in ODE_SOLVERS:
        raise ValueError(f"{option}={solver!r} is unknown; known: {', '.join(ODE_SOLVERS)}")


def roll_out(
    flow: EmbeddingFlow, z: Float[Tensor, "B L d"], sigmas: Float[Tensor, "B S"], solver: str
) -> tuple[Float[Tensor, "B L d"], int]:
    """Let the model carry z down the levels of each row, in eval mode and without gradients.

    Returns:
        z at the end of each row, and the number of evaluations; rows that have arrived take no part in them.
    """
    evaluations = 0

    def predict(z: Tensor, sigma: Tensor, active: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        part, xhat = flow.rows(active), torch.zeros_like(z)
        xhat[active] = part.expected(part.logits(z[active]))
        return xhat

    with flow.denoiser.evaluating():
        arrived = ODE_SOLVERS[solver](predict, z, sigmas)
    return arrived, evaluations
