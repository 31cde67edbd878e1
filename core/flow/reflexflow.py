"""ReflexFlow (Huang et al. 2025, 2512.04904): two losses at states that the model's own rollout drifted to.

*Anti-drift rectification* (ADR) turns the velocity v at the drifted state z~ back to the data e: the squared distance
of the unit vectors along v(z~) and z~ - e, between 0 (same direction) and 4 (opposite). *Frequency compensation* (FC)
is the squared error of the velocity, weighted where the *exposure bias* v(z) - v(z~), the difference that the drift
made, is large in its low frequencies along the sequence: those that early denoising misses most.

In masked diffusion the velocity of a token is its posterior minus the one-hot vector of what its position shows, and
both losses have closed forms in the probabilities alone: no other vectors of the vocabulary's size are needed.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

LOW_SHARE = 4  # one in so many frequencies counts as low (project default, DESIGN section 8)


@dataclass(frozen=True)
class ReflexFlow:
    """Weights of the two losses beside the cross-entropy (defaults: 2512.04904, as SimpleTuner has them).

    Attributes:
        alpha: how much the exposure bias reweights FC; 0 is a plain squared error.
        beta1: weight of ADR.
        beta2: weight of FC.
    """

    alpha: float = 1.0
    beta1: float = 10.0
    beta2: float = 1.0

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(f"reflexflow.{name}={value} must be at least 0")


# ---- on a flow over embeddings --------------------------------------------------------------------------------------


def anti_drift(
    velocity: Float[Tensor, "N L d"], z: Float[Tensor, "N L d"], clean: Float[Tensor, "N L d"]
) -> Float[Tensor, " N"]:
    """ADR of each sample: || unit(v) - unit(z - e) ||^2, directions over the whole canvas."""
    ours, wanted = (nn.functional.normalize(vectors.flatten(1), dim=1) for vectors in (velocity, z - clean))
    return (ours - wanted).square().sum(dim=1)


def low_frequencies(x: Float[Tensor, "N L d"]) -> Float[Tensor, "N L d"]:
    """The lowest quarter of the frequencies along L, at least the mean."""
    spectrum = torch.fft.rfft(x, dim=1)
    kept = max(1, spectrum.size(1) // LOW_SHARE)
    low = torch.arange(spectrum.size(1), device=x.device) < kept
    return torch.fft.irfft(spectrum * low.unsqueeze(1), n=x.size(1), dim=1)


def frequency_weight(
    exposure_bias: Float[Tensor, "N L d"], sigma: Float[Tensor, " N"], alpha: float
) -> Float[Tensor, "N L d"]:
    """1 + alpha sigma |EB_low| / mean |EB_low|, without gradient; its mean over a sample is 1 + alpha sigma.

    1 everywhere in a sample without exposure bias.
    """
    size = low_frequencies(exposure_bias.detach()).abs()
    everywhere = torch.ones_like(size, dtype=torch.bool)
    return 1 + alpha * sigma.to(size.dtype).view(-1, 1, 1) * _share(size, everywhere)


def frequency_compensation(
    velocity: Float[Tensor, "N L d"], target: Float[Tensor, "N L d"], weight: Float[Tensor, "N L d"]
) -> Float[Tensor, " N"]:
    """FC of each sample: the weighted mean squared error of the velocity."""
    return (weight * (velocity - target).square()).mean(dim=(1, 2))


def _share(size: Float[Tensor, "N *D"], where: Bool[Tensor, "N *D"]) -> Float[Tensor, "N *D"]:
    """``size`` (zero outside ``where``) over its mean inside, sample by sample; 0 where all of a sample is 0."""
    axes = tuple(range(1, size.dim()))
    mean = size.sum(dim=axes, keepdim=True) / where.sum(dim=axes, keepdim=True).clamp(min=1)
    return torch.where(mean > 0, size / mean.where(mean > 0, 1.0), 0.0)


# ---- in masked diffusion --------------------------------------------------------------------------------------------


def masked_anti_drift(probs: Float[Tensor, "R V"], targets: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
    """ADR of masked tokens, 2 - 2 cos(p - [MASK], x0 - [MASK]) with p[MASK] = 0.

    cos = (1 + p[x0]) / (sqrt 2 sqrt(1 + sum p^2)).
    """
    return 2 - 2 * (1 + _at(probs, targets)) / (2 * (1 + probs.square().sum(dim=1))).sqrt()


def visible_anti_drift(
    probs: Float[Tensor, "R V"], targets: Int[Tensor, " R"], shown: Int[Tensor, " R"]
) -> Float[Tensor, " R"]:
    """ADR of tokens that show y instead of x0, 2 - 2 cos(p - y, x0 - y).

    cos = (1 + p[x0] - p[y]) / (sqrt 2 sqrt(1 + sum p^2 - 2 p[y])). Near p[y] = 1 both differences vanish, so they are
    summed from the other tokens' probabilities, which loses nothing to rounding.
    """
    others = probs.scatter(1, shown.unsqueeze(1), 0.0)
    leaving = others.sum(dim=1)  # 1 - p[y]
    norm = (others.square().sum(dim=1) + leaving.square()).clamp(min=torch.finfo(probs.dtype).tiny)
    return 2 - 2 * (leaving + _at(probs, targets)) / (2 * norm).sqrt()


def masked_frequency_compensation(
    probs: Float[Tensor, "R V"],
    clean_probs: Float[Tensor, "R V"],
    targets: Int[Tensor, " R"],
    where: Bool[Tensor, "N L"],
    table: Float[Tensor, "V d"],
    sigma: Float[Tensor, " N"],
    alpha: float,
) -> Float[Tensor, " N"]:
    """FC of each sample over its masked positions; 0 for a sample without any.

    The error of the velocity is || p - x0 ||^2 = sum p^2 - 2 p[x0] + 1. The exposure bias (p_clean - p) E is a
    sequence of vectors, zero at visible positions; a position weighs by the length of its low-passed vector.

    Args:
        probs, clean_probs: posteriors at the R masked positions of the drifted and of the clean states, (R, V).
        targets: the data there, (R,).
        where: masked positions, (N, L); the R rows in row-major order.
        table: token embeddings, (V, d).
        sigma: mask probability of each state, (N,).
        alpha: see `ReflexFlow`.
    """
    weight = _masked_weight(clean_probs - probs, where, table, sigma, alpha)
    error = probs.square().sum(dim=1) - 2 * _at(probs, targets) + 1
    weighted = error.new_zeros(where.shape).masked_scatter(where, error * weight[where].to(error.dtype))
    return weighted.sum(dim=1) / where.sum(dim=1).clamp(min=1)


@torch.no_grad()
def _masked_weight(
    difference: Float[Tensor, "R V"],
    where: Bool[Tensor, "N L"],
    table: Float[Tensor, "V d"],
    sigma: Float[Tensor, " N"],
    alpha: float,
) -> Float[Tensor, "N L"]:
    """`frequency_weight` of the exposure bias (p_clean - p) E, one number a position."""
    bias = table.new_zeros(*where.shape, table.size(1))  # (N, L, d)
    bias[where] = (difference.to(table.dtype) @ table).to(table.dtype)  # autocast may have lowered it
    size = torch.linalg.vector_norm(low_frequencies(bias), dim=2) * where
    return 1 + alpha * sigma.to(size.dtype).unsqueeze(1) * _share(size, where)


def _at(probs: Float[Tensor, "R V"], tokens: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
    return probs.gather(1, tokens.unsqueeze(1)).squeeze(1)
