"""Rollouts from an approximate cache: the loss corrects for them, and says by how much they were off."""

import math

import pytest
import torch
from trl import GRPOTrainer
from watching import draws_of, rollout_of

from trainers.grpo.off_policy import CACHE_KL, CACHE_TRUNCATED, rollout_divergence, truncated_weights
from trainers.grpo.states import COMMITS
from trainers.settings.options import ConfigError

# Keys and values of one layer depend on the tokens there alone, which do not change while a block is written.
LAYERS = {"layers": 2}
CACHED = {"cache": "dual", "block_length": 7, "max_timesteps": 14}


def test_weights_are_ratios_up_to_the_cap_and_one_where_nothing_is_known():
    logps, commits = torch.tensor([[-1.0, -2.0, -3.0, -1.0]]), torch.tensor([[-1.5, -1.0, -6.0, -9.0]])
    scored = torch.tensor([[True, True, True, False]])
    weights = truncated_weights(logps, commits, scored, cap=2.0)
    assert torch.allclose(weights, torch.tensor([[math.exp(0.5), math.exp(-1.0), 2.0, 1.0]]))


def test_weights_below_the_cap_make_the_expectation_that_of_the_policy():
    q, p = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.3, 0.3, 0.4])
    weights = truncated_weights(p.log().unsqueeze(0), q.log().unsqueeze(0), torch.ones(1, 3, dtype=torch.bool), 10.0)
    values = torch.tensor([1.0, -2.0, 5.0])
    assert torch.allclose((q * weights[0] * values).sum(), (p * values).sum())


def test_the_divergence_is_unbiased_and_never_negative():
    q, p = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.3, 0.3, 0.4])
    tokens = q.multinomial(200_000, replacement=True, generator=torch.Generator().manual_seed(0)).view(1, -1)
    logps, commits = p.log()[tokens], q.log()[tokens]
    log_ratio = logps - commits
    terms = log_ratio.exp() - 1 - log_ratio
    exact = (q * (q / p).log()).sum().item()
    found = rollout_divergence(logps, commits, torch.ones_like(tokens, dtype=torch.bool))
    assert abs(found - exact) < 4 * terms.std().item() / tokens.numel() ** 0.5
    assert bool((terms >= 0).all())
    assert math.isnan(rollout_divergence(logps, commits, torch.zeros_like(tokens, dtype=torch.bool)))


@pytest.mark.parametrize("options", [{}, {"num_iterations": 2}, {"ratio": "plain"}, {"ratio": "none"}], ids=str)
def test_each_scored_token_weighs_what_the_policy_says_of_it(make_watching, make_policy, monkeypatch, options):
    trainer = make_watching(policy=make_policy(**LAYERS), **CACHED, importance_cap=1.5, **options)
    seen = []

    monkeypatch.setattr(
        GRPOTrainer,
        "_compute_loss",
        lambda self, model, inputs: seen.append(inputs) or torch.zeros((), requires_grad=True),
    )
    batch = rollout_of(trainer)
    super_inputs = dict(batch)
    loss = type(trainer).__mro__[1]._compute_loss  # the trainer's own, beneath `Watching`
    loss(trainer, trainer.model, super_inputs)
    (inputs,) = seen
    draws = draws_of(batch)
    width = inputs["tool_mask"].size(1)
    old = batch["old_per_token_logps"][:, 0]
    old = torch.where((batch["advantages"] < 0).unsqueeze(1), old[:, 1], old[:, 0])
    scored = draws.scored.any(dim=1)[:, :width]
    expected = (old - batch[COMMITS][:, :width]).exp().clamp(max=1.5)
    plain = trainer.likelihood.token_weight(draws)[:, :width]
    assert torch.allclose(inputs["tool_mask"], torch.where(scored, plain * expected, plain))
    assert bool(((old - batch[COMMITS][:, :width])[scored].abs() > 1e-3).any())  # the cache was stale
    assert trainer._metrics["train"][CACHE_KL][-1] > 0
    assert 0 <= trainer._metrics["train"][CACHE_TRUNCATED][-1] <= 1


def test_a_fresh_cache_needs_no_correction(make_watching):
    trainer = make_watching(**CACHED, cache_refresh=1)
    trainer.train()
    assert CACHE_KL not in trainer._metrics["train"] and "old_per_token_logps" not in trainer.batches[0]
    assert trainer.trajectories[0].exact


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_grpo_trains_on_a_stale_cache(make_watching, make_policy, cache):
    options = CACHED | {"cache": cache, "beta": 0.01, "per_device_train_batch_size": 4}
    trainer = make_watching(policy=make_policy(**LAYERS), **options)
    trainer.train()
    row = next(row for row in trainer.state.log_history if CACHE_KL in row)
    assert math.isfinite(row["grad_norm"]) and row["grad_norm"] > 0
    assert row[CACHE_KL] > 0


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"nelbo_replay": "segments"}, "loss.replay='segments'.*drawn or all"),
        ({"nelbo_replay": None}, "loss.replay=None.*drawn or all"),
        ({"nelbo_source": "forward", "nelbo_replay": None}, "loss.replay.*source=rollout"),
        ({"selection": "low_confidence"}, "generation.selection='low_confidence'.*top1"),
        ({"ratio": "weighted"}, "loss.ratio='weighted'"),
        ({"sampler": "revise"}, "generation.sampler='revise'.*count_matched"),
        ({"sampler": "ancestral"}, "generation.sampler='ancestral'.*count_matched"),
        ({"importance_cap": 0.0}, "loss.importance_cap=0.0.*above 0"),
        ({"cache_refresh": 0}, "generation.cache_refresh=0.*at least 1"),
        ({"cache": "exact", "cache_refresh": 2}, "generation.cache_refresh=2.*prefix or dual"),
        ({"cache": "exact", "importance_cap": 3.0}, "loss.importance_cap=3.0.*prefix or dual"),
        ({"threshold": 0.5}, "generation.threshold=0.5.*confidence"),
        ({"sampler": "confidence", "threshold": 0.0}, "generation.threshold=0.0.*above 0"),
        ({"entropy_bound": 0.5}, "generation.entropy_bound=0.5.*entropy_bound"),
        ({"sampler": "entropy_bound", "entropy_bound": -1.0}, "generation.entropy_bound=-1.0.*at least 0"),
        ({"rollout_batch_size": 0}, "generation.batch_size=0.*at least 1"),
    ],
    ids=str,
)
def test_what_cannot_be_corrected_is_refused(grpo_args, options, names):
    with pytest.raises(ConfigError, match=names):
        grpo_args(**(CACHED | options))
