"""Whatever stands for the likelihood, states are drawn once, rows stay apart and gradients are what they should be."""

import logging
import math
import re

import pytest
import torch
from torch import nn
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head
from watching import (
    LORA,
    REUSED,
    draws_of,
    estimate_of,
    loss_and_gradient,
    nudge,
    rollout_of,
    share_of_sevens,
    take,
)

from core.denoisers import ModelDenoiser
from core.denoisers.denoiser import tempered_logps
from core.likelihoods import ESTIMATORS, MergedReplay
from core.likelihoods.sandwich import upper_bound
from core.masking_strategy import FullMaskingStrategy
from core.scoring import predict_states, total_weight
from core.scoring.states import scatter, targets
from core.trajectory import Trajectory
from trainers.grpo.diagnostics import GRADIENT_SIGNAL, LIKELIHOOD_GAP, RATIO_ESS, ROLLOUT_MISMATCH

NEEDS = {"selection_replay": {"selection": "low_confidence"}}  # what an estimator asks of the rest of the config


def options_of(name, **options):
    return {"likelihood": name, **NEEDS.get(name, {}), **options}


def allowing(*ratios):
    return [name for name, estimator in ESTIMATORS.items() if set(ratios) <= set(estimator.ratios)]


def rows(trainer):
    """The log, but the summary at its end."""
    return trainer.state.log_history[:-1]


# --- one set of states for all policies ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "adapter"),
    [(name, None) for name in ESTIMATORS] + [("complementary", LORA), ("rollout", LORA)],
    ids=lambda value: value if isinstance(value, str) else "lora" if value else "full",
)
def test_without_an_update_old_reference_and_current_log_probs_are_identical(make_watching, name, adapter):
    still = {"beta": 0.1, "p_mask_prompt": None, "reuse_commit_logps": False}
    options = options_of(name, peft_config=adapter, **still, **REUSED)
    trainer = make_watching(learning_rate=0.0, max_steps=4, **options)
    trainer.train()
    assert [seen["iteration"] for seen in trainer.micro_batches] == [0, 0, 0, 0, 1, 1, 1, 1]
    for seen in trainer.micro_batches:
        assert seen["current"].abs().sum() > 0
        assert (seen["current"] - seen["old"]).abs().max() == 0.0
        assert (seen["current"] - seen["ref"]).abs().max() == 0.0
    for entry in rows(trainer):
        assert entry["ratio_log_max"] == entry["ratio_log_std"] == entry["kl"] == 0.0


@pytest.mark.parametrize("name", ESTIMATORS)
def test_old_and_reference_are_left_behind_by_the_first_update(make_watching, name):
    trainer = make_watching(max_steps=2, **options_of(name, beta=0.1, reuse_commit_logps=False, **REUSED))
    trainer.train()
    drift = {
        key: [(seen["current"] - seen[key]).abs().max().item() for seen in trainer.micro_batches]
        for key in ("old", "ref")
    }
    for gaps in drift.values():
        assert gaps[:2] == [0.0, 0.0] and min(gaps[2:]) > 0
    first, second = rows(trainer)
    assert first["kl"] == first["ratio_log_max"] == 0.0
    assert second["kl"] > 0 and second["ratio_log_max"] > 0


# --- the loss does not care how a batch is cut --------------------------------------------------------------------


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_order_and_cut_of_a_batch_change_neither_loss_nor_gradient(make_watching, name, level):
    options = options_of(name, loss_type="dr_grpo", importance_sampling_level=level, num_iterations=2, beta=0.1)
    trainer = make_watching(**options)
    inputs = rollout_of(trainer)
    assert inputs["advantages"].min() < 0 < inputs["advantages"].max()
    nudge(trainer.model)
    trainer._step = 1  # the second iteration's states
    loss, gradient = loss_and_gradient(trainer, inputs)
    assert abs(loss) > 1e-3 and gradient.norm() > 1e-2

    permutation = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    shuffled_loss, shuffled_gradient = loss_and_gradient(trainer, take(inputs, permutation))
    halves = [loss_and_gradient(trainer, take(inputs, part)) for part in (permutation[:4], permutation[4:])]
    close = {"atol": 1e-6 * max(1.0, gradient.abs().max().item()), "rtol": 1e-4}
    assert shuffled_loss == pytest.approx(loss, abs=1e-6, rel=1e-5)
    assert torch.allclose(shuffled_gradient, gradient, **close)
    assert sum(part[0] for part in halves) / 2 == pytest.approx(loss, abs=1e-6, rel=1e-5)
    assert torch.allclose((halves[0][1] + halves[1][1]) / 2, gradient, **close)


# --- what goes into the ratio -------------------------------------------------------------------------------------


def second_iteration(make_watching, name, ratio, nudged):
    """A trainer, its inputs, and its loss's gradient in the second iteration, before or after a change of weights."""
    trainer = make_watching(**options_of(name, ratio=ratio, loss_type="dr_grpo", num_iterations=2))
    inputs = rollout_of(trainer)
    assert "old_per_token_logps" in inputs
    trainer._step = 1
    if nudged:
        nudge(trainer.model)
    return trainer, inputs, loss_and_gradient(trainer, inputs)[1]


@pytest.mark.parametrize("name", allowing("normalised", "weighted"))
def test_normalised_and_weighted_ratios_have_one_gradient_before_an_update(make_watching, name):
    for nudged in (False, True):
        _, inputs, normalised = second_iteration(make_watching, name, "normalised", nudged)
        _, same_inputs, weighted = second_iteration(make_watching, name, "weighted", nudged)
        assert torch.equal(inputs["draws/hidden"], same_inputs["draws/hidden"])
        assert normalised.norm() > 1e-2
        weight = total_weight(draws_of(inputs, 1))
        weightless = bool(((weight == 0) | ((weight - 1).abs() < 1e-6)).all())  # then the two are one and the same
        same = torch.allclose(normalised, weighted, atol=1e-5 * normalised.abs().max().item(), rtol=1e-3)
        assert same is (weightless or not nudged)


def scored_logps(trainer, inputs, draws):
    """Log-prob of every scored token in every state by the current policy, (B, M, L)."""
    prompt = inputs["prompt_ids"], inputs["prompt_mask"]
    logits = predict_states(trainer.policy.denoiser(), *prompt, inputs["canvas_ids"], draws, draws.scored)
    logps = tempered_logps(logits, trainer.temperature)
    return scatter(logps.gather(1, targets(inputs["canvas_ids"], draws.scored).unsqueeze(1)).squeeze(1), draws.scored)


def gradient_of(trainer, value):
    trainer.model.zero_grad()
    value.backward()
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", allowing("none"))
def test_without_a_ratio_the_gradient_is_advantage_times_that_of_the_log_likelihood(make_watching, name):
    trainer, inputs, gradient = second_iteration(make_watching, name, "none", nudged=True)
    width, draws = inputs["completion_ids"].size(1), draws_of(inputs, 1)
    estimate = estimate_of(trainer, inputs, draws)
    value = -estimate.token_bound  # the weighted sum over draws, whatever goes into the ratio
    if name == "spg":
        value = torch.where((inputs["advantages"] < 0).unsqueeze(1), estimate.negative_logps, value)
    text = inputs["advantages"].unsqueeze(1) * inputs["completion_mask"] * value[:, :width]
    by_hand = gradient_of(trainer, -text.sum() / (8 * 14))
    assert by_hand.norm() > 1e-2
    assert torch.allclose(gradient, by_hand, atol=1e-6 * max(1.0, by_hand.abs().max().item()), rtol=1e-4)

    with_ratio = "normalised" if "normalised" in ESTIMATORS[name].ratios else "weighted"
    _, _, other = second_iteration(make_watching, name, with_ratio, nudged=True)
    assert not torch.allclose(gradient, other, rtol=0.01)


# --- SPG's two bounds ---------------------------------------------------------------------------------------------


def test_negative_advantages_are_scored_by_the_mixture_of_both_bounds(make_watching):
    options = {"num_iterations": 2, "beta": 0.1, "eubo_power": 2.0, "eubo_share": 0.25, "p_mask_prompt": 0.3}
    trainer = make_watching(**options_of("spg", **options))
    inputs = rollout_of(trainer)
    negative, width = inputs["advantages"] < 0, inputs["completion_ids"].size(1)
    assert 0 < negative.sum() < 8
    for iteration in range(2):
        trainer._step = iteration
        trainer._compute_loss(trainer.model, inputs)
        seen, draws = trainer.micro_batches[-1], draws_of(inputs, iteration)
        with torch.no_grad():
            logps = scored_logps(trainer, inputs, draws)
        lower = (logps * draws.weight.unsqueeze(2)).sum(dim=1)
        mixture = 0.25 * upper_bound(logps, draws, 2.0) + 0.75 * lower
        expected = torch.where(negative.unsqueeze(1), mixture, lower)[:, :width]
        assert torch.allclose(seen["current"], expected, atol=1e-5, rtol=1e-5)
        assert (mixture - lower).abs()[negative].max() > 0.1, "the two differ"
        assert torch.equal(seen["current"], seen["ref"]) and torch.equal(seen["current"], seen["old"])
    assert trainer._metrics["train"]["kl"] == [0.0, 0.0]
    nudge(trainer.model)
    trainer._compute_loss(trainer.model, inputs)
    assert trainer._metrics["train"]["kl"][-1] > 0


# --- wd1's weights ------------------------------------------------------------------------------------------------


def graded(prompts, **kwargs):
    """The first prompt's completions are all alike, the others differ."""
    return [0.0 if prompt == prompts[0] else row**2 for row, prompt in enumerate(prompts)]


def test_wd1_weighs_by_two_softmaxes_over_the_group(make_watching):
    options = {"reward": graded, "per_device_train_batch_size": 12}
    advantages = rollout_of(make_watching(**options), 12)["advantages"].tolist()
    weighting = {"advantage_weighting": "wd1", "wd1_psi": 2.0}
    found = rollout_of(make_watching(**options, **weighting), 12)["advantages"]
    expected = []
    for start in (0, 4, 8):
        group = advantages[start : start + 4]
        up, down = ([math.exp(sign * 2.0 * a) for a in group] for sign in (1, -1))
        expected += [4 * (p / sum(up) - n / sum(down)) for p, n in zip(up, down, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert found.view(3, 4).sum(dim=1).abs().max() < 1e-5
    assert found[:4].tolist() == [0.0] * 4, "equal rewards teach nothing"
    assert found[4:].abs().min() > 0.01


# --- cost ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATORS)
def test_evaluations_are_the_rows_that_went_through_the_models(make_watching, name):
    trainer = make_watching(max_steps=2, beta=0.1, num_iterations=2, **options_of(name))
    rows_seen = []
    for model in (trainer.model, trainer.ref_model):
        model.register_forward_pre_hook(
            lambda module, args, kwargs: rows_seen.append(kwargs["input_ids"].size(0)), with_kwargs=True
        )
    trainer.train()
    # of the denoiser at each of two models, once: at the last layer (2 forwards) and the head (1, where it is scored)
    looks = 2 * (2 if name == "selection_replay" else 3)
    shared = 8 - 2  # the first step of a rollout is the same in a group
    assert trainer.evaluations == sum(rows_seen) - looks + shared
    forwards, states = int(trainer.trajectories[0].forwards.sum()), trainer.batches[0]["draws/hidden"].size(2)
    # two iterations, each scored by the old, the reference and the current policy; the sampler may have been the old
    (trajectory,) = trainer.trajectories[:1]
    exact = trainer.likelihood.replays_steps and trajectory.exact
    policies = 2 if exact else 3
    assert trainer.evaluations == forwards + 8 * states * 2 * policies
    trainer.evaluate()
    assert trainer.evaluations < sum(rows_seen), "evaluation is no part of it"


# --- the sampler's own log-probs in place of the old policy's ------------------------------------------------------

EXACT = [{"nelbo_replay": "all"}, {"nelbo_replay": "drawn"}, {"likelihood": "rollout", "shrinkage": 1}]


@pytest.mark.parametrize("ratio", ["normalised", "weighted", "plain"])
@pytest.mark.parametrize("options", EXACT, ids=str)
def test_recorded_log_probs_are_those_of_the_old_policy_and_save_its_forwards(make_watching, options, ratio):
    sides = []
    for reuse in (True, False):
        trainer = make_watching(reuse_commit_logps=reuse, ratio=ratio, num_iterations=2, beta=0.1, **options)
        batch = rollout_of(trainer)
        sides.append((batch["old_per_token_logps"], batch["ref_per_token_logps"], trainer.evaluations))
    (old, reference, evaluations), (scored_old, scored_reference, more) = sides
    assert scored_old.abs().max() > 1
    # float32: the log-prob of a token is a few units, and each sum of few terms rounds at 1e-6 of that
    assert 0 < (old - scored_old).abs().max() < 1e-5 * max(1.0, draws_of(batch).weight.max().item())
    assert torch.equal(reference, scored_reference)
    assert more - evaluations == 8 * 2 * batch["draws/hidden"].size(2)


def test_ratios_to_recorded_log_probs_are_one_up_to_rounding_until_the_weights_move(make_watching):
    trainer = make_watching(max_steps=4, nelbo_replay="all", **REUSED)
    trainer.train()
    drift = [(seen["current"] - seen["old"]).abs().max().item() for seen in trainer.micro_batches]
    assert 0 < max(drift[:2]) < 1e-5 and min(drift[2:8]) > 1e-3


@pytest.mark.parametrize("options", [{"selection": "low_confidence"}, {"nelbo_replay": "segments"}], ids=str)
def test_where_a_replay_is_not_exact_the_old_policy_is_scored(make_watching, options):
    trainer = make_watching(max_steps=2, num_iterations=2, learning_rate=0.0, **options)
    trainer.train()
    assert all(torch.equal(seen["current"], seen["old"]) for seen in trainer.micro_batches)


def test_with_an_adapter_the_policy_is_the_sampler_and_the_reference_the_model_without_it(make_watching):
    options = {"nelbo_replay": "all", "peft_config": LORA, "beta": 0.1, "num_iterations": 2}
    trainer = make_watching(max_steps=3, **options)
    trainer.train()
    batch, trajectory = trainer.batches[1], trainer.trajectories[1]
    old, reference = batch["old_per_token_logps"][:, 0, 0], batch["ref_per_token_logps"][:, 0, 0]
    revealed = draws_of(batch).scored.any(dim=1)[:, : old.size(1)]
    assert torch.equal(old[revealed], trajectory.commit_logps[:, : old.size(1)][revealed])
    with torch.no_grad(), trainer.model.disable_adapter():
        expected = estimate_of(trainer, batch, draws_of(batch)).per_token_logps
    assert torch.allclose(reference, expected[:, : old.size(1)], atol=1e-5)
    assert (old - reference)[revealed].abs().max() > 0.1


# --- diagnostics --------------------------------------------------------------------------------------------------


def test_replay_of_an_exact_rollout_finds_the_log_probs_of_the_sampler(make_watching):
    trainer = make_watching(max_steps=4, num_iterations=2)
    trainer.train()
    logged = [entry.get(ROLLOUT_MISMATCH) for entry in rows(trainer)]
    assert max(logged[0], logged[2]) < 1e-5
    assert logged[1] is logged[3] is None, "the weights have moved"
    assert not any(LIKELIHOOD_GAP in entry for entry in rows(trainer))


@pytest.mark.parametrize(
    "options",
    [
        options_of("one_step"),
        options_of("rollout", num_draws=2),
        {"selection": "low_confidence"},
    ],
    ids=str,
)
def test_other_likelihoods_log_how_far_they_are_from_the_sampler(make_watching, options):
    trainer = make_watching(max_steps=2, **options)
    trainer.train()
    for entry in rows(trainer):
        assert ROLLOUT_MISMATCH not in entry
        assert math.isfinite(entry[LIKELIHOOD_GAP])
    assert ("selection" in options) is (rows(trainer)[0][LIKELIHOOD_GAP] < 1e-5)


def test_few_tokens_carry_the_loss_after_large_updates(make_watching):
    trainer = make_watching(max_steps=4, num_iterations=4, learning_rate=0.1)
    trainer.train()
    share = [entry[RATIO_ESS] for entry in rows(trainer)]
    assert share[0] == pytest.approx(1.0, abs=1e-9)
    assert 0 < max(share[1:]) < 0.9


def test_signal_of_the_gradient_is_logged_once_two_updates_can_be_compared(make_watching):
    trainer = make_watching(max_steps=4)
    trainer.train()
    signals = [entry.get(GRADIENT_SIGNAL) for entry in rows(trainer)]
    assert signals[:2] == [None, None], "a row is written from what Adam knew before its own update"
    assert all(-0.5 < signal <= 1 for signal in signals[2:])


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({"learning_rate": 0.1, "num_iterations": 8}, {"training.num_iterations", "training.learning_rate"}),
        ({"learning_rate": 1e-4, "num_iterations": 2}, set()),
    ],
    ids=["broken", "healthy"],
)
def test_a_run_that_breaks_is_warned_about_by_option_and_a_healthy_one_is_not(make_watching, caplog, options, warned):
    batch = {"per_device_train_batch_size": 64, "num_generations": 8, "reward": share_of_sevens}
    trainer = make_watching(max_steps=8, beta=0.01, **batch, **options)
    with caplog.at_level(logging.WARNING, logger="trainers.grpo.health"):
        trainer.train()
    messages = [record.message for record in caplog.records if record.name == "trainers.grpo.health"]
    assert all("\n" not in message for message in messages)
    named = {option for message in messages for option in re.findall(r"`([a-z_.]+)`", message)}
    assert warned <= named and bool(warned) is bool(messages), messages


# --- a known case: left to right ----------------------------------------------------------------------------------


def never_masking(policy):
    """Give the head a bias that leaves the mask token no probability: excluding it then changes nothing."""
    model = policy.model
    head = nn.Linear(model.lm_head.in_features, model.lm_head.out_features)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.zero_()
        head.bias[policy.mask_id] = -1e9
    model.lm_head = head
    return policy


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_left_to_right_replay_on_a_causal_model_is_trls_own_log_prob(make_grpo, make_policy, tokenizer, temperature):
    trainer = make_grpo(policy=never_masking(make_policy(causal=True)), temperature=temperature)
    prompts = tokenizer(["Tom has 3 pens.", "Ann has 12 pens and Mia has 4 more."], padding=True, return_tensors="pt")
    prompt_ids, prompt_mask = prompts["input_ids"], prompts["attention_mask"]
    assert prompt_mask[0, 0] == 0 and prompt_mask[0, -1] == 1, "padded on the left"
    ids = torch.randint(5, len(tokenizer), (2, 6), generator=torch.Generator().manual_seed(0))
    step_map = torch.arange(6).expand(2, -1)
    lengths, flags = torch.full((2,), 6), torch.zeros(2, dtype=torch.bool)
    rollout = Trajectory(ids, step_map, torch.zeros(2, 6), lengths, flags, lengths, exact=True, eos_id=None)

    replay, generator = MergedReplay(shrinkage=1), torch.Generator().manual_seed(0)
    masking = FullMaskingStrategy(0.0)
    draws = replay.draw(masking, 2, 6, prompt_ids.size(1), generator, trajectory=rollout)
    denoiser = ModelDenoiser(trainer.model, tokenizer.mask_token_id, logit_shift=True)
    with torch.no_grad():
        found = replay.score(denoiser, prompt_ids, prompt_mask, ids, draws, temperature).per_token_logps
        attention_mask = torch.cat([prompt_mask, torch.ones_like(ids)], dim=1)
        whole = torch.cat([prompt_ids, ids], dim=1)
        add_fused_lm_head(trainer.model, temperature)  # of TRL's own scoring
        expected, _, _ = GRPOTrainer._get_per_token_logps_and_entropies(
            trainer, trainer.model, whole, attention_mask, 6
        )
    assert expected.abs().min() > 1e-3
    assert torch.allclose(found, expected, atol=1e-5, rtol=1e-5)
