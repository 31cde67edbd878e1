"""Levels are drawn by width and stratified; masks are coupled as their name says."""

import torch
from bounds import every_coupling, every_schedule, forward_draws
from toys import assert_mean, rng

from core.masking_strategy import DiffusionMaskingStrategy
from core.nelbo import TrajectoryNELBOLoss


@every_coupling
@every_schedule
def test_levels_are_drawn_by_width_and_masks_by_level(name, coupling):
    nelbo, draws = forward_draws(name, coupling)
    at = draws.timestep.unsqueeze(2) == torch.arange(10)  # (B, M, T + 2)
    assert_mean(at.double().mean(dim=1), nelbo.schedule.width(torch.arange(10)))
    excess = draws.hidden.double() - nelbo.schedule.mask_prob(draws.timestep).unsqueeze(2)
    assert_mean(torch.einsum("bml,bmt->bt", excess, at.double()), 0.0)
    assert torch.equal(draws.scored, draws.hidden)


@every_coupling
@every_schedule
def test_the_uniforms_that_travel_with_the_draws_are_those_that_hid_the_tokens(name, coupling):
    nelbo, draws = forward_draws(name, coupling, rows=50)
    level = nelbo.schedule.mask_prob(draws.timestep).unsqueeze(2)
    assert torch.equal(draws.hidden, draws.u < level)
    assert draws.shown is None and draws.rolled_out is None


@every_coupling
def test_levels_are_stratified(coupling):
    masking = DiffusionMaskingStrategy(0.0, 2, "linear", 0.25, 0.75)  # four transitions of width 1/4
    nelbo = TrajectoryNELBOLoss(2, "linear", 0.25, 0.75, num_draws=16, coupling=coupling)
    timestep = nelbo.draw(masking, 50, 3, 0, rng()).timestep
    for group in timestep.split(8, dim=1):  # two replicates
        copies = (group.unsqueeze(2) == torch.arange(4)).sum(dim=1)
        assert bool((copies == 2).all())


def test_nested_states_are_nested():
    _, draws = forward_draws("cosine", "nested")
    for hidden, timestep in zip(draws.hidden.split(4, dim=1), draws.timestep.split(4, dim=1), strict=True):
        order = timestep.argsort(dim=1)
        cleaner, noisier = (
            hidden.gather(1, order[:, part, None].expand(-1, -1, 6)) for part in (slice(3), slice(1, 4))
        )
        assert bool((noisier | ~cleaner).all())
        assert bool((noisier != cleaner).any())


def test_antithetic_pairs_are_mirror_images_at_the_same_level():
    nelbo, draws = forward_draws("cosine", "antithetic")
    first, second = draws.hidden[:, ::2], draws.hidden[:, 1::2]
    assert torch.equal(draws.timestep[:, ::2], draws.timestep[:, 1::2])
    often = nelbo.schedule.mask_prob(draws.timestep[:, ::2]) >= 0.5
    assert bool((first | second)[often].all()) and not bool((first & second)[~often].any())


def test_independent_draws_are_uncorrelated_and_nested_ones_are_not():
    for coupling in ("independent", "nested"):
        nelbo, draws = forward_draws("linear", coupling)
        excess = draws.hidden.double() - nelbo.schedule.mask_prob(draws.timestep).unsqueeze(2)
        product = (excess[:, 0] * excess[:, 1]).mean(dim=1)  # same token, two levels of one replicate
        if coupling == "independent":
            assert_mean(product, 0.0)
        else:
            assert product.mean() > 0.02


@every_coupling
def test_replicates_are_independent(coupling):
    nelbo, draws = forward_draws("linear", coupling)
    excess = draws.hidden.double() - nelbo.schedule.mask_prob(draws.timestep).unsqueeze(2)
    assert_mean((excess[:, :4].mean(dim=1) * excess[:, 4:].mean(dim=1)).mean(dim=1), 0.0)


@every_coupling
def test_plain_token_weights_share_the_canvas(coupling):
    nelbo, draws = forward_draws("cosine", coupling, num_draws=2, rows=50, ratio="plain")
    weight, seen = nelbo.token_weight(draws), draws.scored.any(dim=1)
    assert bool((seen.any(dim=1) & ~seen.all(dim=1)).any())
    assert torch.equal(weight > 0, seen)
    assert torch.allclose(weight.sum(dim=1), torch.where(seen.any(dim=1), 6.0, 0.0))


@every_schedule
def test_drawn_by_width_the_weight_is_one_over_the_mask_probability(name):
    nelbo, draws = forward_draws(name, "independent", rows=50)
    product = draws.weight * nelbo.schedule.mask_prob(draws.timestep) * 8
    assert torch.allclose(product, torch.ones_like(product), rtol=1e-6)
