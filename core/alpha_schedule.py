"""The one schedule: masking draws from it, the bound is weighted by it, the sampler steps on it.

Convention, fixed here and nowhere else. Timestep 0 is clean and timestep T = ``max_timesteps`` is the noisiest;
``alpha_t = P(a completion token is still visible at t)`` decreases in t, and ``mask_prob_t = 1 - alpha_t``.

The schedules end at ``alpha_0 = alpha_max`` < 1 and ``alpha_T`` > 0, so on its own the chain would neither start from
all-mask nor end clean, and the bound would not be one. The grid is therefore *closed* by two levels:

    1 (t = -1, clean)  >  alpha_0  >  ...  >  alpha_T  >  0 (t = T + 1, all masked)

*Transition t* leaves timestep t for t - 1, t in 0..T+1. It reveals a masked token with probability
``(alpha_{t-1} - alpha_t) / (1 - alpha_t)``, and that same number weights the cross-entropy of the tokens masked at t
in the NELBO (Sahoo et al. 2024, MDLM, eq. 10; Shi et al. 2024, MD4, eq. 4).
"""

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


def cosine(u: Tensor, alpha_min: float, alpha_max: float) -> Tensor:
    """``alpha = alpha_min + (alpha_max - alpha_min) cos^2(pi u / 2)`` (squared cosine, Nichol & Dhariwal 2021)."""
    return (1 - alpha_max) + (alpha_max - alpha_min) * torch.sin(math.pi / 2 * u) ** 2


def linear(u: Tensor, alpha_min: float, alpha_max: float) -> Tensor:
    """``alpha = alpha_max - (alpha_max - alpha_min) u`` (LLaDA, Nie et al. 2025, with both ends at 0 and 1)."""
    return (1 - alpha_max) + (alpha_max - alpha_min) * u


def exponential(u: Tensor, alpha_min: float, alpha_max: float) -> Tensor:
    """``alpha = clamp(alpha_max exp(-3 u), alpha_min, alpha_max)``; with the default ends alpha_T is .049."""
    mask_prob = (1 - alpha_max) - alpha_max * torch.expm1(-3 * u)
    return mask_prob.clamp(1 - alpha_max, 1 - alpha_min)


# A schedule is one function of u = t / T in [0, 1] that returns the *mask probability* 1 - alpha, not alpha: near
# u = 0 with alpha_max = 1 the difference 1 - cos^2 is exactly 0 in float64 where sin^2 is not.
SCHEDULES: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "cosine": cosine,
    "linear": linear,
    "exponential": exponential,
}


class AlphaSchedule:
    """A named alpha schedule on the closed grid of T + 3 levels.

    Args:
        name: a key of `SCHEDULES`.
        max_timesteps: T, the number of denoising steps (`generation.steps`).
        alpha_min: visible share at the noisiest timestep, in [0, alpha_max).
        alpha_max: visible share at timestep 0, in (alpha_min, 1].

    Raises:
        ValueError: unknown name, impossible values, or a schedule that is not a decreasing alpha in [0, 1].
    """

    def __init__(
        self, name: str = "cosine", max_timesteps: int = 128, alpha_min: float = 0.01, alpha_max: float = 0.99
    ):
        if name not in SCHEDULES:
            raise ValueError(f"alpha_schedule={name!r} is unknown; known schedules: {', '.join(SCHEDULES)}")
        if max_timesteps < 1:
            raise ValueError(f"max_timesteps={max_timesteps} must be at least 1")
        if not 0.0 <= alpha_min < alpha_max <= 1.0:
            raise ValueError(
                f"alpha_min={alpha_min}, alpha_max={alpha_max} must satisfy 0 <= alpha_min < alpha_max <= 1"
            )
        self.name, self.max_timesteps, self.alpha_min, self.alpha_max = name, max_timesteps, alpha_min, alpha_max
        inner = self.continuous_mask_prob(torch.arange(max_timesteps + 1, dtype=torch.float64))
        self._mask_probs = torch.cat([inner.new_zeros(1), inner, inner.new_ones(1)])  # t = -1 .. T+1
        widths = self._mask_probs.diff()
        if not bool(torch.isfinite(inner).all()) or bool((widths < 0).any()):
            raise ValueError(
                f"alpha_schedule={name!r} is not a schedule: 1 - alpha must rise with t and stay in [0, 1]"
            )

    @property
    def params(self) -> dict[str, Any]:
        """The four numbers that define the schedule, under the names that both owners of a schedule report."""
        return {
            "alpha_schedule": self.name,
            "max_timesteps": self.max_timesteps,
            "alpha_min": self.alpha_min,
            "alpha_max": self.alpha_max,
        }

    @property
    def timesteps(self) -> range:
        """All timesteps of the closed grid, from clean (-1) to all masked (T + 1)."""
        return range(-1, self.max_timesteps + 2)

    def continuous_mask_prob(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """1 - alpha at real-valued timesteps in [0, T], by the formula (no closing levels), in float64."""
        return SCHEDULES[self.name](t.double() / self.max_timesteps, self.alpha_min, self.alpha_max)

    def mask_prob(self, t: Int[Tensor, "*shape"] | int) -> Float[Tensor, "*shape"]:
        """P(a completion token is masked at t) = 1 - alpha_t; t in -1..T+1; float64 on t's device."""
        index = torch.as_tensor(t) + 1
        return self._mask_probs.to(index.device)[index]

    def alpha(self, t: Int[Tensor, "*shape"] | int) -> Float[Tensor, "*shape"]:
        """P(a completion token is visible at t); t in -1..T+1; float64 on t's device."""
        return 1 - self.mask_prob(t)

    def reveal_prob(
        self, t: Int[Tensor, "*shape"] | int, to: Int[Tensor, "*shape"] | int | None = None
    ) -> Float[Tensor, "*shape"]:
        """P(a token masked at t is visible at ``to``) = (alpha_to - alpha_t) / (1 - alpha_t).

        ``to`` is t - 1 unless given. 0 at a level where nothing is masked (a zero-width end transition), so such
        transitions drop out by themselves.
        """
        start = self.mask_prob(t)
        end = self.mask_prob(torch.as_tensor(t) - 1 if to is None else to)
        return torch.where(start > 0, (start - end) / start.clamp(min=torch.finfo(start.dtype).tiny), 0.0)

    def nelbo_weight(self, t: Int[Tensor, "*shape"] | int) -> Float[Tensor, "*shape"]:
        """NELBO weight of the cross-entropy of the tokens masked at t: the reveal probability of transition t."""
        return self.reveal_prob(t)

    def width(self, t: Int[Tensor, "*shape"] | int) -> Float[Tensor, "*shape"]:
        """alpha_{t-1} - alpha_t: the share of the completion that transition t reveals. The widths sum to 1."""
        return self.mask_prob(t) - self.mask_prob(torch.as_tensor(t) - 1)

    def transition_at(self, u: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The transition t whose mask probabilities (mask_prob_{t-1}, mask_prob_t] contain u in (0, 1].

        For u uniform, transition t comes up with probability equal to its width. The importance weight 1 / width then
        turns `nelbo_weight` into ``1 / mask_prob(t)`` (the familiar 1/t weight).
        """
        edges = self._mask_probs[1:].to(u.device)
        return torch.searchsorted(edges, u.double().clamp(max=1.0).contiguous())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AlphaSchedule) and self.params == other.params

    def __hash__(self) -> int:
        return hash(tuple(self.params.values()))

    def __repr__(self) -> str:
        return f"AlphaSchedule({self.name}, T={self.max_timesteps}, alpha {self.alpha_min}..{self.alpha_max})"


@runtime_checkable
class _MaskingSide(Protocol):
    schedule: AlphaSchedule | None
    p_mask_prompt: float

    def settle_prompt(self, source: str) -> None: ...

    def get_alpha_schedule_params(self) -> dict[str, Any]: ...


@runtime_checkable
class _LossSide(Protocol):
    schedule: AlphaSchedule
    source: str

    def get_performance_stats(self) -> dict[str, Any]: ...


def sync_masking_with_nelbo(masking_strategy: _MaskingSide, nelbo_loss: _LossSide) -> AlphaSchedule:
    """Make the masking strategy and the loss hold the *same* schedule object: the loss's.

    A strategy without timesteps (`schedule` is None) has no schedule to exchange. A strategy that was given no
    `p_mask_prompt` takes the one that fits the loss's source of states.

    Returns:
        The schedule that drives both from now on.

    Raises:
        ValueError: prompts are to be masked in states that are replayed from a rollout, whose prompts were visible.
    """
    masking_strategy.settle_prompt(nelbo_loss.source)
    if masking_strategy.schedule is not None:
        masking_strategy.schedule = nelbo_loss.schedule
    assert_schedules_consistent(masking_strategy, nelbo_loss)
    return nelbo_loss.schedule


def assert_schedules_consistent(masking_strategy: _MaskingSide, nelbo_loss: _LossSide) -> None:
    """Raise a ValueError that lists both sides unless masks and weights come from equal schedules.

    With masks from one schedule and weights from another the number that comes out bounds nothing (a toy NELBO of
    10.96 nats read 16.4, 6.8, 5.5 or 21.9). Neither does a replay of a rollout on prompts that the rollout did not see
    (18.0 nats read 34.4 at a `p_mask_prompt` of 0.3): that is refused too.
    """
    if nelbo_loss.source == "rollout" and masking_strategy.p_mask_prompt > 0:
        raise ValueError(
            f"p_mask_prompt={masking_strategy.p_mask_prompt}: expected 0, or None for what fits, beside a loss of "
            "source='rollout': it replays states in which the whole prompt was visible"
        )
    masking = masking_strategy.get_alpha_schedule_params()
    if masking["alpha_schedule"] is None:
        return
    stats = nelbo_loss.get_performance_stats()
    loss = {key: stats[key] for key in masking}
    if masking != loss:
        raise ValueError(
            f"masking and loss disagree on the alpha schedule: masking has {masking}, loss has {loss}; "
            "call sync_masking_with_nelbo(masking_strategy, nelbo_loss)"
        )
