"""Reverse steps between two levels: how the tokens that a transition reveals are drawn from the denoiser's posterior.

*Which* tokens a transition reveals, and when inside the step, is chance alone (one uniform number a token, see
`core.masking_strategy`): given that a token is revealed inside the step, its reveal time is uniform in alpha. What is
left to err in is factorisation: two tokens drawn from one evaluation do not see each other. With pi_n the posterior at
the step's start and Pi = clip at 0 and renormalise, the solvers are

    euler   everything from pi_n                                                            1 evaluation   order 1
    dpm     from Pi[pi_n + (r / 2) (pi_n - pi_{n-1})], r the ratio of the two widths        1              2 *
    unipc   the first half of the step from pi_n, the rest from Pi[2 pi(after it) - pi_n]   2              2 *
    rk4     in random order in 4 balanced groups, each after the earlier ones               up to 4        4

with the order that of the law of the result in total variation; * while nothing is clipped, else 1 with a smaller
constant. All four reveal the same tokens at the same transitions: the law of the mask count is exact. Groups whose
tokens see all earlier ones are exact up to one token each, so rk4 has no error at all on four tokens or fewer.

Sources: Ren et al. 2025 (2502.00234; theta-trapezoidal and theta-RK-2); Lu et al. 2022 (2211.01095) and Zhao
et al. 2023 (2302.04867) for the names. Averaging posteriors of discarded stages with Runge-Kutta's weights is only of
order 1, which is why rk4 commits its stages instead.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.names import look_up

RK4_GROUPS = 4


@dataclass(frozen=True)
class Posteriors:
    """Probabilities at some positions of a batch, and the width of the step that asked for them.

    Attributes:
        where: positions, (B, L), R of them.
        probs: one distribution for each, in row-major order, (R, V).
        width: alpha_to - alpha_t of the step, (B,).
    """

    where: Bool[Tensor, "B L"]
    probs: Float[Tensor, "R V"]
    width: Float[Tensor, " B"]

    def at(self, where: Bool[Tensor, "B L"]) -> Float[Tensor, "Q V"]:
        """The distributions at Q of the positions."""
        return self.probs[where[self.where]]


def extrapolate(
    now: Float[Tensor, "R V"], before: Float[Tensor, "R V"], by: Float[Tensor, " R"] | float
) -> Float[Tensor, "R V"]:
    """Pi[now + by (now - before)]: a posterior continued along its last change, clipped at 0 and renormalised."""
    by = by.to(now.dtype).unsqueeze(1) if isinstance(by, Tensor) else by
    beyond = (now + by * (now - before)).clamp(min=0)
    # Where nothing is clipped the sum is 1 already; it is at least 1 otherwise, so there is no division by zero.
    return beyond / beyond.sum(dim=1, keepdim=True)


class ReverseStep(ABC):
    """One transition of the closed grid as a solver sees it. B rows, L positions; a row may have nothing to reveal.

    Attributes:
        reveal: tokens that this transition reveals, (B, L).
        soon: tokens that the next transition reveals, still masked after this one, (B, L).
        time: when inside the step, as a share of its width, uniform in [0, 1] where ``reveal``, (B, L).
        width: alpha_to - alpha_t, (B,).
        memory: what `dpm` keeps from the step before; the caller carries it from step to step of one walk.
    """

    reveal: Bool[Tensor, "B L"]
    soon: Bool[Tensor, "B L"]
    time: Float[Tensor, "B L"]
    width: Float[Tensor, " B"]
    memory: Posteriors | None

    @abstractmethod
    def posterior(self, where: Bool[Tensor, "B L"]) -> Float[Tensor, "R V"]:
        """p(token | state) at the given positions: one evaluation of the rows that have any."""

    @abstractmethod
    def commit(self, where: Bool[Tensor, "B L"], probs: Float[Tensor, "R V"]) -> None:
        """Draw a token at each given position from its distribution and write it into the state."""


def euler(step: ReverseStep) -> None:
    """Every token from the posterior at the start of the step (tau-leaping; MDLM's ancestral sampler)."""
    step.commit(step.reveal, step.posterior(step.reveal))


def dpm(step: ReverseStep) -> None:
    """Every token from the posterior extrapolated to the middle of the step, with the step before as second point.

    Whatever happened outside a row leaves its posterior as it was, so a row that revealed nothing in the step before
    has no second point and needs none: there was no change to continue.
    """
    asked = (step.reveal | step.soon) & step.reveal.any(dim=1, keepdim=True)
    now, before = Posteriors(asked, step.posterior(asked), step.width), step.memory
    probs = now.at(step.reveal)
    if before is not None:
        known = step.reveal & before.where
        ratio = (step.width / before.width).unsqueeze(1).expand_as(known)[known]
        probs = probs.masked_scatter(
            known[step.reveal].unsqueeze(1), extrapolate(now.at(known), before.at(known), ratio / 2)
        )
    step.commit(step.reveal, probs)
    step.memory = now


def unipc(step: ReverseStep) -> None:
    """The tokens of the first half from the posterior at the start; the rest from the one after them, extrapolated.

    2 pi(middle) - pi(start) is the posterior at the end of the step, where the second half needs it at three quarters:
    the excess makes up for the first half, which was drawn a quarter too early.
    """
    first = step.reveal & (step.time < 0.5)
    # A row with an empty first half is at its middle already: the posterior has not changed and needs no evaluation.
    late = step.reveal & ~first & first.any(dim=1, keepdim=True)
    start = Posteriors(step.reveal, step.posterior(step.reveal), step.width)
    step.commit(step.reveal & ~late, start.at(step.reveal & ~late))
    if bool(late.any()):
        step.commit(late, extrapolate(step.posterior(late), start.at(late), 1.0))


def rk4(step: ReverseStep) -> None:
    """The tokens in the random order of their times, in 4 groups of equal size, each drawn after the earlier ones."""
    # Ranks in the row, 0 for the earliest; the first `count` of them are spread evenly over the groups.
    rank = torch.where(step.reveal, step.time, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
    count = step.reveal.sum(dim=1, keepdim=True)
    group = rank * RK4_GROUPS // count.clamp(min=1)
    for number in range(RK4_GROUPS):
        where = step.reveal & (group == number)
        if bool(where.any()):
            step.commit(where, step.posterior(where))


@dataclass(frozen=True)
class Solver:
    """A reverse step.

    Attributes:
        step: (ReverseStep) -> None; called only where something is revealed.
        exact: whether tokens are drawn from the denoiser's own p(token | state), so that the recorded commit
            log-probabilities are those that a replay of the states finds.
    """

    step: Callable[[ReverseStep], None]
    exact: bool


SOLVERS: dict[str, Solver] = {
    "euler": Solver(euler, exact=True),
    "dpm": Solver(dpm, exact=False),
    "unipc": Solver(unipc, exact=False),
    "rk4": Solver(rk4, exact=True),
}


def solver_named(name: str) -> Solver:
    """A reverse step of `SOLVERS`.

    Raises:
        ValueError: unknown name.
    """
    return look_up("generation.solver", name, SOLVERS)
