"""ReflexFlow: directions, frequencies, and closed forms that equal what they abbreviate."""

import math

import pytest
import torch
from torch import Tensor
from toys import rng

from core.flow.reflexflow import (
    ReflexFlow,
    anti_drift,
    frequency_compensation,
    frequency_weight,
    low_frequencies,
    masked_anti_drift,
    masked_frequency_compensation,
    visible_anti_drift,
)

V, MASK, L = 6, 5, 16


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=rng(seed), dtype=torch.float64)


def posteriors(rows: int, seed: int = 0) -> Tensor:
    """Distributions that never predict the mask token, (rows, V)."""
    logits = 2 * normal(rows, V, seed=seed)
    logits[:, MASK] = float("-inf")
    return logits.softmax(dim=1)


def one_hot(tokens: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(tokens, V).double()


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, MASK, shape, generator=rng(seed))


# ---- directions -----------------------------------------------------------------------------------------------------


def test_anti_drift_is_0_towards_the_data_2_across_and_4_away():
    z, clean, across = normal(3, L, 4), normal(3, L, 4, seed=1), normal(3, L, 4, seed=2)
    wanted = z - clean
    across = across - wanted * (across * wanted).sum((1, 2), keepdim=True) / wanted.square().sum((1, 2), keepdim=True)
    for velocity, expected in ((wanted, 0.0), (across, 2.0), (-wanted, 4.0)):
        for length in (1e-3, 1.0, 1e3):
            drift = anti_drift(length * velocity, z, clean)
            assert torch.allclose(drift, torch.full((3,), expected, dtype=torch.float64), atol=1e-12)


def test_anti_drift_is_twice_one_minus_cosine_of_each_sample():
    z, clean, velocity = normal(3, L, 4), normal(3, L, 4, seed=1), normal(3, L, 4, seed=2)
    cosine = torch.nn.functional.cosine_similarity(velocity.flatten(1), (z - clean).flatten(1))
    assert torch.allclose(anti_drift(velocity, z, clean), 2 - 2 * cosine)


# ---- frequencies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [15, 16, 64])
def test_the_lowest_quarter_of_the_frequencies_passes_and_the_rest_does_not(length):
    count = length // 2 + 1
    where = torch.arange(length, dtype=torch.float64).view(1, -1, 1) / length
    for k in range(count):
        wave = torch.cos(2 * math.pi * k * where + (0.3 if 2 * k < length else 0.0))
        expected = wave if k < max(1, count // 4) else torch.zeros_like(wave)
        assert torch.allclose(low_frequencies(wave), expected, atol=1e-12), k


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_short_sequences_keep_their_mean(length):
    x = normal(2, length, 3)
    assert torch.allclose(low_frequencies(x), x.mean(dim=1, keepdim=True).expand_as(x))


def test_frequency_weight_has_mean_one_plus_alpha_sigma_in_every_sample():
    bias, sigma = normal(4, L, 3) * torch.tensor([1e-6, 1.0, 5.0, 1e4]).view(-1, 1, 1), torch.rand(4, generator=rng())
    for alpha in (0.0, 1.0, 2.5):
        mean = frequency_weight(bias, sigma, alpha).mean(dim=(1, 2))
        assert torch.allclose(mean, 1 + alpha * sigma.double())


def test_frequency_weight_is_larger_where_the_low_frequencies_differ():
    bias, sigma = normal(4, L, 3), torch.rand(4, generator=rng())
    excess = frequency_weight(bias, sigma, 1.0) - 1
    size = low_frequencies(bias).abs()
    ratio = excess / size  # one number a sample: the weight follows the bias element by element
    assert torch.allclose(ratio, ratio[:, :1, :1].expand_as(ratio))
    assert bool((excess.std(dim=(1, 2)) > 0.1 * sigma).all())


@pytest.mark.parametrize("what", ["none", "high frequencies alone"])
def test_frequency_weight_is_1_without_exposure_bias(what):
    bias = torch.zeros(2, L, 3)
    if what != "none":
        bias[:, ::2], bias[:, 1::2] = 1.0, -1.0
    weight = frequency_weight(bias, torch.full((2,), 0.7), 3.0)
    assert torch.equal(weight, torch.ones_like(weight))


def test_frequency_weight_takes_no_gradient():
    bias = normal(2, L, 3).requires_grad_()
    assert not frequency_weight(bias, torch.ones(2), 1.0).requires_grad


def test_frequency_compensation_is_the_weighted_mean_squared_error_of_each_sample():
    velocity, target, weight = normal(3, L, 4), normal(3, L, 4, seed=1), normal(3, L, 4, seed=2).abs()
    found = frequency_compensation(velocity, target, weight)
    for i in range(3):
        assert torch.isclose(found[i], (weight[i] * (velocity[i] - target[i]) ** 2).sum() / (L * 4))


# ---- closed forms in masked diffusion -------------------------------------------------------------------------------


def explicit_anti_drift(probs: Tensor, targets: Tensor, shown: Tensor) -> Tensor:
    """ADR of the flow among one-hot vectors: z shows a token, the velocity leaves it for the posterior."""
    z = one_hot(shown).unsqueeze(1)
    return anti_drift(z - probs.unsqueeze(1), z, one_hot(targets).unsqueeze(1))


def test_masked_anti_drift_equals_the_one_on_one_hot_vectors():
    probs, targets = posteriors(200), tokens(200)
    expected = explicit_anti_drift(probs, targets, torch.full((200,), MASK))
    assert torch.allclose(masked_anti_drift(probs, targets), expected)
    assert torch.allclose(masked_anti_drift(one_hot(targets), targets), torch.zeros(200, dtype=torch.float64))


def test_visible_anti_drift_equals_the_one_on_one_hot_vectors():
    probs, targets = posteriors(200), tokens(200)
    shown = (targets + 1 + tokens(200, seed=1) % (MASK - 1)) % MASK
    assert bool((shown != targets).all())
    found = visible_anti_drift(probs, targets, shown)
    assert torch.allclose(found, explicit_anti_drift(probs, targets, shown))
    assert torch.allclose(visible_anti_drift(one_hot(targets), targets, shown), torch.zeros_like(found), atol=1e-12)


def test_anti_drift_gradients_equal_those_on_one_hot_vectors():
    targets = tokens(50)
    shown = (targets + 1) % MASK
    for closed, state in (
        (lambda p: masked_anti_drift(p, targets), torch.full((50,), MASK)),
        (lambda p: visible_anti_drift(p, targets, shown), shown),
    ):
        ours, explicit = (posteriors(50).requires_grad_() for _ in range(2))
        closed(ours).sum().backward()
        explicit_anti_drift(explicit, targets, state).sum().backward()
        # A distribution can only move along the simplex without [MASK]: what a softmax lets through.
        seen = [p.grad[:, :MASK] - p.grad[:, :MASK].mean(dim=1, keepdim=True) for p in (ours, explicit)]
        assert torch.allclose(*seen) and seen[0].abs().max() > 0.1


@pytest.mark.parametrize("rest", [1e-2, 1e-5, 1e-9])
def test_visible_anti_drift_survives_a_model_that_is_sure_of_the_wrong_token(rest):
    """In float32, where 1 + sum p^2 - 2 p[y] has rounded to nothing long before."""
    others = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    probs = torch.cat([torch.tensor([1 - rest], dtype=torch.float64), rest * others]).unsqueeze(0)
    cosine = (1 + others[0]) / math.sqrt(2 * (1 + others.square().sum()))  # the others alone say where it points
    found = visible_anti_drift(probs.float(), torch.tensor([1]), torch.tensor([0]))
    assert math.isclose(found.item(), 2 - 2 * cosine.item(), rel_tol=1e-4)


def test_visible_anti_drift_has_a_finite_gradient_in_the_logits_of_a_certain_model():
    logits = torch.tensor([[200.0, 0.0, 1.0], [50.0, 0.0, 1.0]], requires_grad=True)
    visible_anti_drift(logits.softmax(dim=1), torch.tensor([1, 1]), torch.tensor([0, 0])).sum().backward()
    assert bool(torch.isfinite(logits.grad).all())


def explicit_frequency_compensation(
    probs: Tensor, clean_probs: Tensor, targets: Tensor, where: Tensor, table: Tensor, sigma: Tensor, alpha: float
) -> Tensor:
    """FC of the flow among one-hot vectors, sample by sample, on tensors of the whole canvas."""
    shown = torch.full(where.shape, MASK)
    whole = [torch.zeros(*where.shape, V, dtype=torch.float64) for _ in range(3)]
    for part, values in zip(whole, (probs, clean_probs, one_hot(targets)), strict=True):
        part[where] = values
    posterior, clean_posterior, data = whole
    velocity, target = one_hot(shown) - posterior, one_hot(shown) - data
    bias = low_frequencies((clean_posterior - posterior) @ table).norm(dim=2)
    found = []
    for n in range(len(where)):
        size = bias[n, where[n]]
        weight = 1 + alpha * sigma[n] * size / size.mean()
        found.append((weight * (velocity - target)[n, where[n]].square().sum(dim=1)).mean())
    return torch.stack(found)


def case(samples: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    where = torch.rand(samples, L, generator=rng(3)) < 0.5
    rows = int(where.sum())
    sigma = torch.rand(samples, generator=rng(4), dtype=torch.float64)
    return posteriors(rows), posteriors(rows, seed=1), tokens(rows), where, normal(V, 4, seed=2), sigma


def test_masked_frequency_compensation_equals_the_one_on_one_hot_vectors():
    for alpha in (0.0, 1.0, 3.0):
        found = masked_frequency_compensation(*case(), alpha)
        assert torch.allclose(found, explicit_frequency_compensation(*case(), alpha))
    assert not torch.allclose(found, masked_frequency_compensation(*case(), 0.0), rtol=0.1)


def test_masked_frequency_weight_has_mean_one_plus_alpha_sigma():
    """Where the error is the same everywhere, only the mean weight is left."""
    probs, clean_probs, targets, where, table, sigma = case()
    probs, targets = probs[:1].expand_as(probs), targets[:1].expand_as(targets)
    error = (probs[0] - one_hot(targets[0])).square().sum()
    found = masked_frequency_compensation(probs, clean_probs, targets, where, table, sigma, 2.0)
    assert torch.allclose(found, (1 + 2 * sigma) * error)


def test_masked_frequency_compensation_is_a_plain_mean_without_exposure_bias():
    probs, _, targets, where, table, sigma = case()
    found = masked_frequency_compensation(probs, probs, targets, where, table, sigma, 2.0)
    error = (probs - one_hot(targets)).square().sum(dim=1)
    per_sample = [part.mean() for part in error.split(where.sum(dim=1).tolist())]
    assert torch.allclose(found, torch.stack(per_sample))


def test_a_sample_without_masks_costs_nothing():
    probs, clean_probs, targets, where, table, sigma = case()
    keep = torch.arange(3).repeat_interleave(where.sum(dim=1)) != 1
    where[1] = False
    found = masked_frequency_compensation(probs[keep], clean_probs[keep], targets[keep], where, table, sigma, 1.0)
    full = masked_frequency_compensation(*case(), 1.0)
    assert found[1] == 0 and torch.allclose(found[[0, 2]], full[[0, 2]])
    none = torch.zeros_like(where)
    empty = masked_frequency_compensation(probs[:0], probs[:0], targets[:0], none, table, sigma, 1.0)
    assert torch.equal(empty, torch.zeros(3, dtype=torch.float64))
    assert masked_anti_drift(probs[:0], targets[:0]).shape == (0,)
    assert visible_anti_drift(probs[:0], targets[:0], targets[:0]).shape == (0,)


def test_masked_frequency_compensation_differentiates_the_error_and_not_the_weight():
    probs, clean_probs, targets, where, table, sigma = case()
    leaves = [part.clone().requires_grad_() for part in (probs, clean_probs, table)]
    found = masked_frequency_compensation(leaves[0], leaves[1], targets, where, leaves[2], sigma, 2.0)
    found.sum().backward()
    assert leaves[1].grad is None and leaves[2].grad is None
    # d error / dp = 2 (p - x0) in every row, times a weight that each sample shares out with mean 1 + alpha sigma.
    direction = 2 * (probs - one_hot(targets))
    weight = (leaves[0].grad * direction).sum(dim=1) / direction.square().sum(dim=1)
    assert torch.allclose(leaves[0].grad, weight.unsqueeze(1) * direction)
    shares = torch.stack([part.sum() for part in weight.split(where.sum(dim=1).tolist())])
    assert torch.allclose(shares, 1 + 2 * sigma)


def test_masked_frequency_compensation_works_under_autocast():
    probs, clean_probs, targets, where, table, sigma = case()
    arguments = [part.float() for part in (probs, clean_probs)]
    with torch.autocast("cpu", torch.bfloat16):
        found = masked_frequency_compensation(*arguments, targets, where, table.float(), sigma.float(), 1.0)
    assert torch.allclose(found.double(), masked_frequency_compensation(*case(), 1.0), rtol=0.02)


@pytest.mark.parametrize("name", ["alpha", "beta1", "beta2"])
def test_negative_weights_are_an_error(name):
    with pytest.raises(ValueError, match=f"reflexflow.{name}=-0.5"):
        ReflexFlow(**{name: -0.5})
