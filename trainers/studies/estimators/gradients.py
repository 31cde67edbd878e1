"""Bias and spread of a gradient estimator, from its gradients on batches and the exact gradient."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from trainers.studies.estimators.comparison import Batch, GradientTarget
from trainers.studies.estimators.rows import REINFORCE, Row

# Standard errors of the squared bias: 1 in 100 at worst by chance (one dominant direction), far fewer with several.
DETECTED = 4.0
NEGLIGIBLE = 0.01  # relative bias that is not called one: it may rest on rare paths that no batch had


def compare_gradients(
    row: Row, samples: Float[Tensor, "n D"], reinforce: Float[Tensor, "n D"], exact: Float[Tensor, " D"]
) -> Row:
    """Fill in what a row says of gradients.

    With d_b = sample_b - reinforce_b, the mean of d_b . d_c over pairs b != c is ||bias||^2 in expectation, without
    noise; if there is no bias its variance is 2 tr(C^2) / (n (n - 1)), C the covariance of d, estimated from the same
    pairs.
    """
    samples, reinforce, exact = samples.double(), reinforce.double(), exact.double()
    difference, norm, pairs = samples - reinforce, exact.norm(), len(samples) * (len(samples) - 1)
    mean = difference.mean(dim=0)
    bias_square = _off_diagonal(difference @ difference.T).sum() / pairs
    centred = difference - mean
    noise = (2 * _off_diagonal(centred @ centred.T).square().sum()).sqrt() / pairs
    along = (exact @ (exact + mean)) / norm**2
    length_square = norm**2 + 2 * exact @ mean + bias_square
    cosines = (samples @ exact) / (samples.norm(dim=1) * norm)
    return replace(
        row,
        gradient_bias=(bias_square.clamp(min=0).sqrt() / norm).item(),
        gradient_bias_floor=max(((DETECTED * noise).sqrt() / norm).item(), NEGLIGIBLE),
        gradient_scale=along.item(),
        cosine_of_mean=(along * norm / length_square.clamp(min=1e-12).sqrt()).clamp(-1, 1).item(),
        gradient_std=(samples.var(dim=0).sum().sqrt() / norm).item(),
        batch_cosine=cosines.mean().item(),
    )


def _off_diagonal(square: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    return square - torch.diag(square.diagonal())


def reinforce_row(batches: list[Batch], target: GradientTarget) -> Row:
    """The floor: what rollouts alone cost, with the exact likelihood."""
    exact = Row(REINFORCE, "", "", None, math.nan, 0.0, 0.0, 0.0, 0.0, 0.0)
    samples = torch.stack([batch.reinforce for batch in batches])
    return compare_gradients(exact, samples, target.gradient.expand_as(samples), target.gradient)
