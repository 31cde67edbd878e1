"""Scoring: no randomness, no gradient of entropies, and the same from logits that are there already."""

from dataclasses import fields

import pytest
import torch
from bounds import DENOISER, IDS, TemperedRows, estimates, rollout
from toys import ConstantDenoiser, prompts, rng, synced

from core.denoisers.denoiser import tempered_logps
from core.nelbo import SOURCES
from core.scoring import predict_states


def test_constant_predictions_have_constant_logps_and_entropies():
    logits = torch.tensor([0.5, -1.0, 0.2])
    logps = logits.log_softmax(0)
    masking, nelbo = synced(num_draws=4, source="forward")
    draws = nelbo.draw(masking, 20, 4, 2, rng())
    estimate = nelbo.score(ConstantDenoiser(logits.tolist()), *prompts(20), IDS.expand(20, -1), draws)
    seen = draws.scored.any(dim=1)
    assert not bool(seen.all())
    assert torch.allclose(estimate.per_token_logps, torch.where(seen, logps[IDS], 0.0), atol=1e-6)
    assert torch.allclose(estimate.entropies, torch.where(seen, -(logps * logps.exp()).sum(), 0.0), atol=1e-6)


def test_scoring_draws_nothing_and_leaves_the_global_random_state():
    masking, nelbo = synced(num_draws=4, source="forward")
    before = torch.get_rng_state()
    draws = nelbo.draw(masking, 5, 4, 2, rng())
    one, two = (nelbo.score(DENOISER, *prompts(5), IDS.expand(5, -1), draws) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for field in fields(one):
        assert torch.equal(getattr(one, field.name), getattr(two, field.name))


def test_entropies_carry_no_gradient():
    denoiser = TemperedRows(10)
    estimate = estimates("cosine", denoiser, rows=10)
    assert estimate.per_token_logps.requires_grad and estimate.sequence_bound.requires_grad
    assert not estimate.entropies.requires_grad and not estimate.standard_error.requires_grad


@pytest.mark.parametrize("source", SOURCES)
def test_an_estimate_from_logits_of_more_positions_is_the_score(source):
    masking, nelbo = synced(source=source, num_draws=2)
    out = rollout(rows=12)
    draws = nelbo.draw(masking, *out.ids.shape, 2, rng(), trajectory=out)
    where = draws.scored | (torch.rand(draws.scored.shape, generator=rng(1)) < 0.3)
    logits = predict_states(DENOISER, *prompts(12), out.ids, draws, where)
    assert len(logits) == int(where.sum()) > int(draws.scored.sum())
    found = nelbo.estimate(tempered_logps(logits[draws.scored[where]], 0.7), out.ids, draws)
    expected = nelbo.score(DENOISER, *prompts(12), out.ids, draws, 0.7)
    for field in fields(found):
        values, others = getattr(found, field.name), getattr(expected, field.name)
        assert torch.allclose(values, others, atol=1e-6, equal_nan=True), field.name
