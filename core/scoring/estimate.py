"""What one scoring pass says of each sequence, as a record, and the error bar of its value."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LikelihoodEstimate:
    """What one scoring pass says; everything float32, nats.

    Attributes:
        sequence_bound: estimate of -log p(completion | prompt), (B,); an upper bound in expectation where the
            estimator is a bound.
        token_bound: its split over tokens, (B, L); sums to `sequence_bound`.
        standard_error: Monte-Carlo standard error of `sequence_bound` given the completion, (B,); 0 where every step
            was scored by itself, NaN where the draws cannot tell: a single one, or merged steps, which are biased.
        per_token_logps: log-probability of each token as it enters ratio and KL, (B, L); 0 where no draw scored it.
        entropies: mean entropy of the distribution in the draws that scored the token, (B, L).
        token_weight: how many tokens each token stands for, (B, L); use as a loss mask.
        negative_logps: what takes the place of `per_token_logps` where the advantage is negative, (B, L); the same but
            for `core.likelihoods.sandwich`.
    """

    sequence_bound: Float[Tensor, " B"]
    token_bound: Float[Tensor, "B L"]
    standard_error: Float[Tensor, " B"]
    per_token_logps: Float[Tensor, "B L"]
    entropies: Float[Tensor, "B L"]
    token_weight: Float[Tensor, "B L"]
    negative_logps: Float[Tensor, "B L"]


def standard_error(
    terms: Float[Tensor, "B M"], groups: int, variance_factor: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Standard error of the sum over draws, from the spread between its independent units.

    With n units of value x_j: sqrt(n) std(x) sqrt(variance_factor); the last is the finite-population factor.

    Args:
        terms: what each draw adds to the value, (B, M).
        groups: n, consecutive units of equal size; 1 leaves the error unknown.
        variance_factor: `Draws.variance_factor`, (B,).

    Returns:
        (B,); 0 where the factor is, as every step was drawn; NaN where a single unit has no spread.
    """
    units = terms.unflatten(1, (groups, -1)).sum(dim=2)
    spread = math.sqrt(groups) * units.std(dim=1) if groups > 1 else torch.full_like(terms[:, 0], math.nan)
    return torch.where(variance_factor > 0, spread * variance_factor.sqrt(), 0.0)
