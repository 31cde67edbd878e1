"""Ratios are 1 until the weights move, for as long as everything is scored on the same states; and GRPO learns."""

import copy
import math
from itertools import combinations

import pytest
import torch
from watching import (
    LORA,
    REUSED,
    draws_of,
    equal,
    estimate_of,
    loss_and_gradient,
    nudge,
    rollout_of,
    share_of_sevens,
    state,
    take,
)

import trainers.grpo.rollout
from core.alpha_schedule import AlphaSchedule
from core.scoring import Draws
from core.trajectory import NEVER
from trainers.models.loading import load_policy
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError

# --- one set of states for all policies ---------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("source", ["rollout", "forward"])
def test_without_an_update_old_reference_and_current_log_probs_are_identical(make_watching, source, adapter):
    still = {"learning_rate": 0.0, "max_steps": 8, "beta": 0.1, "reuse_commit_logps": False}
    trainer = make_watching(nelbo_source=source, p_mask_prompt=None, peft_config=adapter, **still, **REUSED)
    trainer.train()
    assert (trainer.masking_strategy.p_mask_prompt > 0) is (source == "forward")
    assert len(trainer.batches) == 2
    assert [seen["iteration"] for seen in trainer.micro_batches] == [0, 0, 0, 0, 1, 1, 1, 1] * 2
    for seen in trainer.micro_batches:
        assert seen["current"].abs().sum() > 0
        assert torch.equal(seen["current"], seen["old"])
        assert torch.equal(seen["current"], seen["ref"])
    for entry in trainer.state.log_history[:-1]:
        assert entry["ratio_log_max"] == entry["ratio_log_std"] == entry["kl"] == 0.0


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
def test_ratios_leave_one_after_an_update_and_the_kl_after_the_first(make_watching, adapter):
    trainer = make_watching(max_steps=8, beta=0.1, peft_config=adapter, reuse_commit_logps=False, **REUSED)
    trainer.train()
    drift = [(seen["current"] - seen["old"]).abs().max().item() for seen in trainer.micro_batches]
    assert drift[:2] == [0.0, 0.0] and min(drift[2:8]) > 0, "the first update comes after two micro-batches"
    assert drift[8:10] == [0.0, 0.0] and min(drift[10:]) > 0, "a new rollout starts at ratio 1 again"
    kl = [entry["kl"] for entry in trainer.state.log_history[:-1]]
    assert kl[0] == 0.0 and min(kl[1:]) > 0


def test_states_are_drawn_once_for_each_rollout_and_iteration(make_watching, monkeypatch):
    trainer = make_watching(max_steps=8, beta=0.1, **REUSED)
    draw, calls = trainer.likelihood.draw, []
    monkeypatch.setattr(trainer.likelihood, "draw", lambda *a, **k: calls.append(1) or draw(*a, **k))
    trainer.train()
    assert len(trainer.batches) == 2 and len(calls) == 4
    for batch in trainer.batches:
        hidden = batch["draws/hidden"]
        assert hidden.shape == (16, 2, 2, 14)  # rows, iterations, draws, canvas
        differ = (hidden[:, 0] != hidden[:, 1]).flatten(1).any(dim=1)
        # two of about seven steps: the same pair comes up twice in one row of 21
        assert differ.float().mean() > 0.7


@pytest.mark.parametrize("source", ["rollout", "forward"])
def test_states_stay_with_their_canvas_through_shuffle_and_split(make_watching, source):
    trainer = make_watching(max_steps=4, nelbo_source=source, **REUSED)
    trainer.train()
    batch, trajectory = trainer.batches[0], trainer.trajectories[0]
    # the canvas as sampled where its path is replayed, the text where it is noised afresh
    scored = trajectory.ids if source == "rollout" else trajectory.completion_ids
    assert not torch.equal(trajectory.ids, trajectory.completion_ids)
    where = {tuple(ids): row for row, ids in enumerate(scored.tolist())}
    assert len(where) == 16
    order = []
    for seen in trainer.micro_batches:
        for row in range(4):
            inputs = {key: value[row] for key, value in seen["inputs"].items() if value.ndim}
            original = where[tuple(inputs["canvas_ids"].tolist())]
            order.append(original)
            for key, value in inputs.items():
                assert torch.equal(value, batch[key][original]), key
            length = int(trajectory.lengths[original])
            assert inputs["completion_ids"][:length].tolist() == trajectory.completions()[original]
            if source == "rollout":
                steps = trajectory.step_map[original]
                own = sorted(set(steps[steps < NEVER].tolist()))
                for i in range(2):
                    for m, timestep in enumerate(inputs["draws/timestep"][i].tolist()):
                        assert torch.equal(inputs["draws/hidden"][i, m], steps >= own[timestep])
                        assert torch.equal(inputs["draws/scored"][i, m], steps == own[timestep])
    assert order[:16] == order[16:] and sorted(order[:16]) == list(range(16))
    assert order[:16] != list(range(16)), "trl shuffles: without it this test shows nothing"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"selection": "random"},
        {"selection": "margin", "temperature": 0.7},
        {"sampler": "ancestral"},
        {"block_length": 2},
    ],
    ids=str,
)
def test_replayed_log_probs_are_those_with_which_the_tokens_were_drawn(make_watching, options):
    trainer = make_watching(nelbo_replay="all", num_iterations=2, **options)
    batch = rollout_of(trainer, 16)
    trajectory, mask = trainer.trajectories[0], batch["completion_mask"].bool()
    revealed = (trajectory.step_map < NEVER)[:, : mask.size(1)]
    assert trajectory.exact and bool(revealed[mask].all())
    mismatch = batch["old_per_token_logps"][:, 0, 0] - trajectory.commit_logps[:, : mask.size(1)]
    assert mismatch[mask].abs().max() < 1e-5
    assert len(set(trajectory.lengths.tolist())) > 1, "some completions end early"


# --- the loss does not care how a batch is cut --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss_type", "total"), [("dr_grpo", "mean"), ("grpo", "mean"), ("dapo", "sum"), ("cispo", "sum")]
)
@pytest.mark.parametrize("source", ["rollout", "forward"])
def test_order_and_cut_of_a_batch_change_neither_loss_nor_gradient(make_watching, loss_type, total, source):
    trainer = make_watching(loss_type=loss_type, nelbo_source=source, num_iterations=2, beta=0.1)
    inputs = rollout_of(trainer)
    nudge(trainer.model)
    trainer._step = 1  # the second iteration's states
    loss, gradient = loss_and_gradient(trainer, inputs)
    assert abs(loss) > 1e-3 and gradient.norm() > 1e-2

    permutation = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    shuffled_loss, shuffled_gradient = loss_and_gradient(trainer, take(inputs, permutation))
    assert shuffled_loss == pytest.approx(loss, abs=1e-6)
    assert torch.allclose(shuffled_gradient, gradient, atol=1e-6, rtol=1e-4)

    halves = [loss_and_gradient(trainer, take(inputs, rows)) for rows in (permutation[:4], permutation[4:])]
    weight = 0.5 if total == "mean" else 1.0
    assert weight * sum(half[0] for half in halves) == pytest.approx(loss, abs=1e-6)
    assert torch.allclose(weight * (halves[0][1] + halves[1][1]), gradient, atol=1e-6, rtol=1e-4)


def test_gradient_accumulation_gives_the_update_of_the_whole_batch(make_watching):
    # no shuffle of prompts, plain gradient descent, one update: only how the 16 rows are cut differs
    shared = {"max_steps": 1, "shuffle_dataset": False, "optim": "sgd", "loss_type": "dr_grpo", "max_grad_norm": 0.0}
    whole = make_watching(per_device_train_batch_size=16, **shared)
    parts = make_watching(per_device_train_batch_size=4, gradient_accumulation_steps=4, **shared)
    # sampled in other micro-batches, hence with other noise
    parts.roller.complete = lambda *args: whole.trajectories[0]
    start = state(whole.model)
    whole.train()
    parts.train()
    assert not equal(start, state(whole.model))
    for name, value in whole.model.state_dict().items():
        assert torch.allclose(value, parts.model.state_dict()[name], atol=1e-6), name


def test_gradient_at_ratio_one_is_the_policy_gradient_of_the_weighted_log_probs(make_watching):
    trainer = make_watching(loss_type="dr_grpo", num_iterations=2)
    inputs = rollout_of(trainer)
    _, gradient = loss_and_gradient(trainer, inputs)
    draws = draws_of(inputs)
    estimate = estimate_of(trainer, inputs, draws)
    weight = torch.zeros(8, 14)
    for row in range(8):  # 2 steps drawn out of the row's own: each token of them stands for S / 2
        steps = trainer.trajectories[0].step_map[row]
        own = sorted(set(steps[steps < NEVER].tolist()))
        drawn = [own[t] for t in draws.timestep[row].tolist()]
        weight[row] = torch.isin(steps, torch.tensor(drawn)).float() * len(own) / 2
    width = inputs["completion_ids"].size(1)
    text = inputs["completion_mask"] * weight[:, :width]
    expected = -(inputs["advantages"].unsqueeze(1) * text * estimate.per_token_logps[:, :width]).sum() / (8 * 14)
    trainer.model.zero_grad()
    expected.backward()
    by_hand = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
    assert by_hand.norm() > 1e-2
    assert torch.allclose(gradient, by_hand, atol=1e-6, rtol=1e-4)


def test_loss_on_drawn_steps_averages_to_the_loss_on_all_steps(make_watching):
    trainer = make_watching(loss_type="dr_grpo", nelbo_replay="all", num_iterations=2, beta=0.1)
    inputs = rollout_of(trainer)
    nudge(trainer.model)
    with torch.no_grad():
        exact = trainer._compute_loss(trainer.model, inputs).item()
        trainer.likelihood.replay = "drawn"
        losses = []
        for seed in range(300):
            draws = trainer.likelihood.draw(
                trainer.masking_strategy,
                8,
                14,
                inputs["prompt_ids"].size(1),
                torch.Generator().manual_seed(seed),
                trajectory=trainer.trajectories[0],
            )
            drawn = Draws.stack([draws]).to_dict("draws/")
            # every token is scored in one state only, so old and reference log-probs are those of the full replay
            losses.append(trainer._compute_loss(trainer.model, inputs | drawn).item())
    losses = torch.tensor(losses)
    error = losses.std() / math.sqrt(len(losses))
    assert abs(losses.mean() - exact) < 3 * error
    assert error < 0.1 * abs(exact), "sharp enough to see a wrong weight"


def test_padding_of_a_prompt_changes_no_log_prob(make_watching, tokenizer):
    trainer = make_watching(nelbo_source="forward", num_draws=4)
    short, long = "Tom has 3 pens.", "Tom has 3 pens and Ann has 12 pens and Mia has 4 more pens than both of them."
    canvas = torch.randint(3, 200, (1, 14), generator=torch.Generator().manual_seed(0))
    draws = trainer.likelihood.draw(trainer.masking_strategy, 1, 14, 0, torch.Generator().manual_seed(0))

    def log_probs(prompts):
        batch = tokenizer(prompts, padding=True, return_tensors="pt")
        count, length = batch["input_ids"].shape
        tensors = {key: value for key, value in vars(draws).items() if value is not None}
        own = {key: value.expand(count, *value.shape[1:]) for key, value in tensors.items()}
        own["prompt_hidden"] = torch.zeros(count, 4, length, dtype=torch.bool)
        states = Draws(**own)
        prompt = batch["input_ids"], batch["attention_mask"]
        score = trainer.scorer.estimate(trainer.model, prompt, canvas.expand(count, -1), states)
        return score.per_token_logps[0]

    alone, beside, other = log_probs([short]), log_probs([short, long]), log_probs([long])
    assert torch.allclose(alone, beside, atol=1e-5)
    assert not torch.allclose(alone, other, atol=1e-2), "the prompt matters"


# --- reference ----------------------------------------------------------------------------------------------------


def test_reference_is_the_model_in_hand_and_not_the_one_on_disk(make_watching, model_dir):
    policy = load_policy(ModelArguments(model_name_or_path=str(model_dir)))
    on_disk = state(policy.model)
    nudge(policy.model)
    patched = state(policy.model)
    trainer = make_watching(policy=policy, beta=0.1, max_steps=2)
    trainer.train()
    reference = trainer.ref_model.state_dict()
    assert equal(reference, patched) and not equal(reference, on_disk)
    assert not equal(state(trainer.model), patched), "the policy moved, its reference did not"
    first, second = (entry["kl"] for entry in trainer.state.log_history[:2])
    assert first == 0.0 and second > 0


def test_synced_reference_follows_the_policy(make_watching):
    options = {"sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 1.0}
    trainer = make_watching(beta=0.1, max_steps=2, **options)
    start = state(trainer.ref_model)
    trainer.train()
    assert not equal(state(trainer.ref_model), start)
    assert equal(state(trainer.ref_model), state(trainer.model))


def test_config_of_a_run_with_a_reference_still_says_so(make_watching):
    trainer = make_watching(beta=0.1, sync_ref_model=True)
    assert (trainer.args.beta, trainer.beta, trainer.args.sync_ref_model) == (0.1, 0.1, True)


# --- every option trains ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"])
def test_every_loss_of_trl_moves_the_weights(make_watching, loss_type, level):
    trainer = make_watching(
        loss_type=loss_type, importance_sampling_level=level, max_steps=2, num_iterations=2, beta=0.01
    )
    start = state(trainer.model)
    trainer.train()
    first, second = trainer.state.log_history[:2]
    assert math.isfinite(first["loss"]) and math.isfinite(second["loss"])
    assert first["grad_norm"] > 0 and second["ratio_log_max"] > 0
    assert not equal(start, state(trainer.model))


@pytest.mark.parametrize(
    "options",
    [
        {"masking_strategy_type": "full"},
        {"sampler": "ancestral"},
        {"sampler": "renoise"},
        {"block_length": 2},
        {"selection": "low_confidence"},
        {"nelbo_replay": "segments"},
        {"nelbo_source": "forward", "nelbo_coupling": "antithetic"},
        {"nelbo_source": "forward", "nelbo_coupling": "independent"},
        {"alpha_schedule": "linear"},
        {"alpha_schedule": "exponential"},
        {"mask_truncated_completions": True},
        {"gradient_checkpointing": True},
        {"scale_rewards": "batch"},
        {"top_entropy_quantile": 0.5},
        {"bf16": True},
    ],
    ids=str,
)
def test_every_option_of_the_diffusion_trains(make_watching, options):
    trainer = make_watching(max_steps=2, num_iterations=2, beta=0.01, reuse_commit_logps=False, **options)
    start = state(trainer.model)
    trainer.train()
    first, second = trainer.state.log_history[:2]
    assert first["ratio_log_max"] == 0.0 < second["ratio_log_max"]
    assert first["nelbo"] > 0 and math.isfinite(first["nelbo"])
    assert not equal(start, state(trainer.model))


@pytest.mark.parametrize("option", [{"entropy_coef": 0.01}, {"use_adaptive_entropy": True}], ids=str)
def test_entropy_bonus_is_refused_because_it_would_do_nothing(grpo_args, option):
    (name,) = option
    with pytest.raises(ConfigError, match=f"training.{name}="):
        grpo_args(**option)


# --- one schedule -------------------------------------------------------------------------------------------------


def test_masking_loss_and_sampler_hold_one_schedule_object(make_watching, monkeypatch):
    built, build = [], trainers.grpo.rollout.build_generator
    monkeypatch.setattr(
        trainers.grpo.rollout, "build_generator", lambda *a, **k: built.append(build(*a, **k)) or built[-1]
    )
    trainer = make_watching(alpha_schedule="linear", alpha_min=0.1)
    rollout_of(trainer)
    assert trainer.masking_strategy.schedule is trainer.likelihood.schedule is built[0].schedule
    assert built[0].masking is trainer.masking_strategy
    assert trainer.likelihood.schedule == AlphaSchedule("linear", 7, 0.1, 0.99)


@pytest.mark.parametrize("side", ["masking_strategy", "likelihood"])
def test_schedules_that_come_apart_later_stop_the_run_with_both_sides_listed(make_watching, side):
    trainer = make_watching()
    getattr(trainer, side).schedule = AlphaSchedule("linear", 9, 0.02, 0.98)
    with pytest.raises(ValueError, match="disagree on the alpha schedule") as error:
        trainer.train()
    for fragment in ("'linear'", "'cosine'", "'max_timesteps': 9", "'max_timesteps': 7", "0.02", "0.01"):
        assert fragment in str(error.value)


# --- evaluation, metrics, randomness ------------------------------------------------------------------------------


def noiseless(metrics):
    return {k: v for k, v in metrics.items() if "second" not in k and "runtime" not in k and "step_time" not in k}


def test_evaluating_twice_gives_the_same_numbers(make_watching):
    trainer = make_watching(beta=0.1, max_steps=1)
    trainer.train()
    first, second = (noiseless(trainer.evaluate()) for _ in range(2))
    assert first == second
    assert {"eval_loss", "eval_reward", "eval_nelbo", "eval_kl"} <= first.keys()
    nudge(trainer.model)
    assert noiseless(trainer.evaluate()) != first


def test_evaluating_during_training_does_not_change_the_training(make_watching):
    finals = []
    for strategy in ("no", "steps"):
        trainer = make_watching(max_steps=4, eval_strategy=strategy, eval_steps=1, **REUSED)
        trainer.train()
        finals.append(state(trainer.model))
    assert any("eval_nelbo" in entry for entry in trainer.state.log_history)
    assert equal(*finals)


def test_equal_seeds_give_equal_weights_and_other_seeds_and_steps_other_states(make_watching):
    runs = [make_watching(max_steps=3, seed=seed, nelbo_source="forward") for seed in (0, 0, 1)]
    for trainer in runs:
        torch.manual_seed(0)  # the global state decides nothing but trl's shuffle of rows
        trainer.train()
    assert equal(state(runs[0].model), state(runs[1].model))
    # forward masks come from chance alone, not from weights or prompts
    states = [batch["draws/hidden"] for batch in (*runs[0].batches, runs[2].batches[0])]
    for first, second in combinations(states, 2):
        assert not torch.equal(first, second)


def test_logged_metrics_are_complete(make_watching):
    trainer = make_watching(max_steps=2, num_iterations=2, beta=0.1)
    trainer.train()
    expected = {"nelbo", "nelbo_standard_error", "ratio_log_std", "ratio_log_max", "kl", "entropy", "step_time"}
    expected |= {"loss/tokens_per_second", "time/rollout", "time/scoring", "time/backward"}
    for entry in trainer.state.log_history[:2]:
        assert expected <= entry.keys()
        assert entry["loss/tokens_per_second"] > 0
    with_rollout, without = trainer.state.log_history[:2]
    assert {"rollout/tokens_per_second", "rollout/forwards_per_completion", "reward"} <= with_rollout.keys()
    assert with_rollout["time/rollout"] > 0 == without["time/rollout"]
    assert with_rollout["rollout/forwards_per_completion"] == trainer.trajectories[0].forwards.float().mean().item()


def test_ratio_is_logged_only_where_it_can_differ_from_one(make_watching):
    trainer = make_watching(max_steps=1)
    trainer.train()
    assert "nelbo" in trainer.state.log_history[0]
    assert not {"ratio_log_std", "kl"} & trainer.state.log_history[0].keys()


@pytest.mark.parametrize("replay", ["drawn", "all"])
def test_logged_bound_is_that_of_the_batch_with_its_standard_error(make_watching, replay):
    trainer = make_watching(max_steps=1, learning_rate=0.0, nelbo_replay=replay, num_iterations=2)
    trainer.train()
    entry, trajectory = trainer.state.log_history[0], trainer.trajectories[0]
    exact = -trajectory.commit_logps.sum(dim=1).mean().item()
    if replay == "all":
        assert entry["nelbo"] == pytest.approx(exact, rel=1e-5)
        assert entry["nelbo_standard_error"] == 0.0
    else:
        assert 0 < entry["nelbo_standard_error"] < exact
        assert abs(entry["nelbo"] - exact) < 3 * entry["nelbo_standard_error"]


# --- it learns ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["rollout", "forward"])
def test_a_rewarded_character_becomes_frequent(make_watching, source):
    trainer = make_watching(
        reward=share_of_sevens,
        nelbo_source=source,
        max_steps=8,
        per_device_train_batch_size=32,
        num_generations=8,
        loss_type="dr_grpo",
    )
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history[:8]]
    assert rewards[0] < 0.1 and min(rewards[-2:]) > 0.7


def test_rollouts_are_made_in_eval_mode_and_scores_in_train_mode(make_watching, monkeypatch):
    trainer = make_watching(max_steps=1, beta=0.1, num_iterations=2)
    roll, rolling, modes = trainer.roller.complete, [False], {True: set(), False: set()}

    def rollout(*args):
        rolling[0] = True
        trajectory = roll(*args)
        rolling[0] = False
        return trajectory

    monkeypatch.setattr(trainer.roller, "complete", rollout)
    trainer.model.register_forward_pre_hook(lambda module, args: modes[rolling[0]].add(module.training))
    trainer.train()
    assert modes == {True: {False}, False: {True}}


def test_dropout_is_off_in_policy_and_reference(make_watching, make_policy):
    policy = make_policy(attention_dropout=0.5)
    options = {"beta": 0.1, "learning_rate": 0.0, "num_iterations": 2, "reuse_commit_logps": False}
    trainer = make_watching(policy=policy, max_steps=1, **options)
    trainer.train()
    assert trainer.state.log_history[0]["ratio_log_max"] == trainer.state.log_history[0]["kl"] == 0.0


def test_policy_is_trained_in_place(make_watching, make_policy):
    policy = make_policy()
    before = copy.deepcopy(state(policy.model))
    make_watching(policy=policy, max_steps=1).train()
    assert not equal(before, state(policy.model))
