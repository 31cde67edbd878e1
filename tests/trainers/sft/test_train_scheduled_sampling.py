"""Training on states of the model's own making: off it is not there, on it changes what the states show, no more."""

import math
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig
from resumes import SAVING, assert_resumes_bit_by_bit
from torch.nn import functional
from watching import look_at

import trainers.exposure
import trainers.sft.moved_states
from core.sampling import SOLVERS
from core.scheduled_sampling import RollOut
from core.scoring import by_sign
from trainers.exposure import rollout_metrics
from trainers.grpo.trainer import ImprovedDiffuGRPOTrainer
from trainers.sft.trainer import DiffusionSFTTrainer

LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
SFT_CANVAS = 20  # of the fixture make_sft
ON = {"scheduled_sampling_max_step_offset": 5, "scheduled_sampling_probability": 0.5}
RAMP = {
    "scheduled_sampling_max_step_offset": 5,
    "scheduled_sampling_ramp_steps": 4,
    "scheduled_sampling_prob_start": 0.3,
    "scheduled_sampling_prob_end": 0.9,
}
LOSSES = {
    "scheduled_sampling_visible_loss": 0.5,
    "scheduled_sampling_reflexflow": True,
    "scheduled_sampling_reflexflow_alpha": 2.0,
    "scheduled_sampling_reflexflow_beta1": 3.0,
    "scheduled_sampling_reflexflow_beta2": 0.7,
}
REFLEXFLOW = {key: value for key, value in LOSSES.items() if "reflexflow" in key}
NOT_YET = {"scheduled_sampling_max_step_offset": 5, "scheduled_sampling_ramp_steps": 9}
OFF = {
    "offset 0": ON | {"scheduled_sampling_max_step_offset": 0},
    "probability 0": ON | {"scheduled_sampling_probability": 0.0},
    "not yet": NOT_YET | {"scheduled_sampling_start_step": 50},
}
# one state is not moved in any row or moved in all: 4 levels, and prompts in part hidden
STATES = {"num_draws": 4, "p_mask_prompt": 0.3, "temperature": 0.7}
# what GRPO needs: 4 micro-batches of 4 rows a rollout, 2 micro-batches an update, every rollout used twice
GRPO = {"nelbo_source": "forward", "num_iterations": 2}
REUSED = GRPO | {"per_device_train_batch_size": 4, "steps_per_generation": 4, "gradient_accumulation_steps": 2}


@pytest.fixture
def record(monkeypatch):
    """Let a function of an object go on as it is, and keep what it returns."""

    def start(owner, name):
        function, kept = getattr(owner, name), []
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: kept.append(function(*args, **kwargs)) or kept[-1])
        return kept

    return start


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rows(trainer, *keys):
    """The training rows of the log; with ``keys`` these alone."""
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [tuple(entry.get(key) for key in keys) for entry in log] if keys else log


def first_loss(trainer):
    """The batch of a fresh trainer's first micro-step, and its loss."""
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    return batch, trainer.compute_loss(trainer.model, batch)


# ---- SFT: the same training but for what states show ----------------------------------------------------------------


def test_switched_off_every_way_leaves_sft_bit_by_bit_as_without(make_sft):
    runs = []
    further = {**LOSSES, "scheduled_sampling_sampler": "rk4", "scheduled_sampling_strategy": "biased_late"}
    for options in ({}, *OFF.values(), OFF["not yet"] | further):
        trainer = make_sft(max_steps=3, gradient_accumulation_steps=2, p_mask_prompt=0.3, **options)
        trainer.train()
        runs.append((state(trainer.model), rows(trainer, "loss", "nelbo", "grad_norm")))
    (weights, log), *others = runs
    assert all(None not in row for row in log)
    for other, same_log in others:
        assert equal(other, weights) and same_log == log


def test_only_visible_tokens_of_rolled_out_sequences_differ_from_a_run_without(make_sft, make_policy, record):
    seen, drawn = [], []
    for options in ({}, ON):
        policy, states = make_policy(), []
        trainer = make_sft(
            policy=policy, max_steps=2, gradient_accumulation_steps=2, learning_rate=0.0, **STATES, **options
        )
        drawn.append(record(trainer.nelbo_loss, "draw"))
        moved = record(trainer.objective.scheduled, "roll_out")
        look_at(policy)
        policy.model.register_forward_pre_hook(
            lambda module, _, inputs, to=states: to.append(inputs["input_ids"]) if module.training else None,
            with_kwargs=True,
        )
        trainer.train()
        seen.append(states)
    assert len(moved) == 4 and [len(states) for states in seen] == [4, 4]
    for before, after in zip(*drawn, strict=True):
        assert equal(before._tensors(), after._tensors())
    for without, with_own, rollout in zip(*seen, moved, strict=True):
        mask_id, differs = policy.mask_id, without != with_own
        assert torch.equal(without == mask_id, with_own == mask_id)
        assert torch.equal(differs[:, -SFT_CANVAS:].view_as(rollout.wrong), rollout.wrong)
        assert not differs[:, :-SFT_CANVAS].any() and differs.any()
        assert not rollout.wrong[~rollout.draws.rolled_out].any() and not rollout.wrong[rollout.offset == 0].any()


def test_equal_seeds_give_equal_weights_and_other_seeds_other_ones(make_sft):
    finals = []
    for seed in (0, 0, 1):
        trainer = make_sft(max_steps=3, seed=seed, **RAMP, **LOSSES)
        trainer.train()
        finals.append(state(trainer.model))
    assert equal(finals[0], finals[1]) and not equal(finals[0], finals[2])


# ---- SFT: the loss --------------------------------------------------------------------------------------------------


def unit(vectors):
    return functional.normalize(vectors, dim=-1)


def low_pass(x):
    """The lowest quarter of the 11 frequencies of 20 places, by the definition."""
    place = torch.arange(SFT_CANVAS, dtype=torch.float64)
    waves = [torch.ones_like(place), *(f(2 * math.pi * place / SFT_CANVAS) for f in (torch.cos, torch.sin))]
    basis = unit(torch.stack(waves))
    return (basis.T @ (basis @ x.double())).float()


def loss_by_hand(trainer, batch, rollout):
    """State by state, from vectors over the vocabulary."""
    args, mask_id, draws = trainer.args, trainer.policy.mask_id, rollout.draws
    table = trainer.policy.denoiser().embedding_table()
    one_hot, place = torch.eye(len(table)), torch.arange(SFT_CANVAS)
    bound, visible, drift, compensation = 0.0, 0.0, [], []
    for row, m in ((row, m) for row in range(8) for m in range(args.num_draws)):
        text, mask = batch["completion_ids"][row], batch["prompt_mask"][row]
        hidden, wrong = draws.hidden[row, m], rollout.wrong[row, m]
        prompt = batch["prompt_ids"][row].masked_fill(draws.prompt_hidden[row, m] & mask.bool(), mask_id)
        attention = torch.cat([mask, torch.ones_like(text)])[None]

        def posterior(shown, prompt=prompt, attention=attention):
            logits = trainer.model(torch.cat([prompt, shown])[None], attention_mask=attention).logits[0, -SFT_CANVAS:]
            logits[:, mask_id] = float("-inf")
            return (logits / args.temperature).softmax(dim=1)

        shown = draws.shown[row, m].masked_fill(hidden, mask_id)
        sigma = trainer.nelbo_loss.schedule.mask_prob(draws.timestep[row, m]).item()
        probs = posterior(shown)
        costs = -probs[place, text].log()
        bound += costs[hidden].sum() / sigma / args.num_draws
        visible += costs[wrong].sum()
        if rollout.offset[row, m] == 0:
            continue
        velocity, wanted = (unit(end - one_hot[shown]) for end in (probs, one_hot[text]))
        trained = (velocity - wanted).square().sum(dim=1)[hidden | wrong]
        drift.append(trained.mean() if len(trained) else torch.tensor(0.0))
        bias = (posterior(text.masked_fill(hidden, mask_id)) - probs).detach() @ table * hidden.unsqueeze(1)
        size = low_pass(bias).norm(dim=1)[hidden]
        share = size / size.mean() if wrong.any() else 0.0  # the clean state is this one
        weight = 1 + args.scheduled_sampling_reflexflow_alpha * sigma * share
        error = (probs - one_hot[text]).square().sum(dim=1)[hidden]
        compensation.append((weight * error).mean() if hidden.any() else torch.tensor(0.0))
    loss = bound / 8 / SFT_CANVAS
    loss = loss + args.scheduled_sampling_visible_loss * visible / draws.hidden.numel()
    if trainer.args.reflexflow_on:
        states = 8 * args.num_draws
        loss = loss + args.scheduled_sampling_reflexflow_beta1 * sum(drift) / states
        loss = loss + args.scheduled_sampling_reflexflow_beta2 * sum(compensation) / states
    return loss.item()


def all_right(rollout, ids):
    """As if the model had found every token."""
    shown = ids.unsqueeze(1).expand_as(rollout.draws.shown)
    return replace(rollout, draws=replace(rollout.draws, shown=shown), wrong=torch.zeros_like(rollout.wrong))


def unmasked(rollout, where):
    """As if no token were masked in the states ``where`` (B, M)."""
    hidden = rollout.draws.hidden & ~where.unsqueeze(2)
    return replace(rollout, draws=replace(rollout.draws, hidden=hidden, scored=hidden))


def first(moved):
    """The first of the states that were moved alone."""
    return moved & (moved.flatten().cumsum(0).view_as(moved) == 1)


CHANGES = {
    "as drawn": lambda rollout, ids: rollout,
    "no token wrong": all_right,
    "a moved state without masks": lambda rollout, ids: unmasked(rollout, first(rollout.offset > 0)),
    "no masks where moved": lambda rollout, ids: unmasked(rollout, rollout.offset > 0),
    "neither": lambda rollout, ids: all_right(unmasked(rollout, rollout.offset > 0), ids),
    "nothing to score at all": lambda rollout, ids: all_right(unmasked(rollout, rollout.offset >= 0), ids),
}


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({}, "as drawn"),
        ({"scheduled_sampling_visible_loss": 0.5}, "as drawn"),
        (REFLEXFLOW, "as drawn"),
        *((LOSSES, change) for change in CHANGES),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(key[19:] for key in value) or "bound alone",
)
def test_loss_is_the_one_computed_state_by_state_from_its_definition(make_sft, monkeypatch, options, change):
    trainer = make_sft(**ON, **STATES, **options)
    roll_out, rollouts = trainer.objective.scheduled.roll_out, []

    def changed(denoiser, masking, prompt_ids, prompt_mask, ids, *args):
        rollout = roll_out(denoiser, masking, prompt_ids, prompt_mask, ids, *args)
        assert rollout.offset.any() and not rollout.offset.all() and rollout.wrong.any()
        rollouts.append(CHANGES[change](rollout, ids))
        return rollouts[-1]

    monkeypatch.setattr(trainer.objective.scheduled, "roll_out", changed)
    batch, loss = first_loss(trainer)
    assert loss.item() == pytest.approx(loss_by_hand(trainer, batch, rollouts[0]), rel=2e-5)
    loss.backward()
    gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


def test_a_state_without_a_wrong_token_has_no_exposure_bias_also_under_dropout(
    make_sft, make_policy, record, monkeypatch
):
    """Rounding would do as well: the bias is divided by its own mean, however small that is."""
    seen, function = [], trainers.sft.moved_states.masked_frequency_compensation
    monkeypatch.setattr(
        trainers.sft.moved_states, "masked_frequency_compensation", lambda *args: seen.append(args) or function(*args)
    )
    trainer = make_sft(policy=make_policy(attention_dropout=0.5), **ON, **STATES, **REFLEXFLOW)
    rollouts = record(trainer.objective.scheduled, "roll_out")
    first_loss(trainer)
    ((probs, clean, *_),), (rollout,) = seen, rollouts
    hidden = rollout.draws.hidden & (rollout.offset > 0).unsqueeze(2)
    biased = rollout.wrong.any(dim=2, keepdim=True).expand_as(hidden)[hidden]
    assert bool(biased.any()) and not bool(biased.all())
    assert torch.equal(clean[~biased], probs[~biased]) and not clean.requires_grad
    assert (clean - probs)[biased].abs().max() > 1e-2


# ---- SFT: the walk leaves no traces ---------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
def test_model_and_random_state_are_untouched_and_one_forward_has_a_graph(make_sft, make_policy, adapter):
    policy, calls = make_policy(), []
    args = make_sft(**ON, **LOSSES).args
    trainer = DiffusionSFTTrainer(policy, args, make_sft().train_dataset, peft_config=adapter)
    trainer.state.logging_steps = 1  # the exposure bias is measured too
    trainer.model.train()
    policy.model.model.layers[0].mlp.eval()
    policy.model.register_forward_pre_hook(
        lambda module, _: calls.append((module.training, module.model.layers[0].training, torch.is_grad_enabled()))
    )
    before = [(m.training, [p.requires_grad for p in m.parameters()]) for m in trainer.model.modules()]
    batch = next(iter(trainer.get_train_dataloader()))
    randomness = torch.get_rng_state()
    loss = trainer.compute_loss(trainer.model, batch)
    assert torch.equal(torch.get_rng_state(), randomness)
    assert [(m.training, [p.requires_grad for p in m.parameters()]) for m in trainer.model.modules()] == before
    assert torch.is_grad_enabled() and loss.requires_grad
    assert calls.count((True, True, True)) == 1
    assert len(calls) > 4 and set(calls) == {(True, True, True), (False, False, False)}


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
def test_gradient_is_that_of_the_bound_on_the_states_as_given(make_sft, make_policy, record, adapter):
    policy, args = make_policy(), make_sft(**ON, **STATES).args
    torch.manual_seed(0)
    trainer = DiffusionSFTTrainer(policy, args, make_sft().train_dataset, peft_config=adapter)
    rollouts = record(trainer.objective.scheduled, "roll_out")
    batch, loss = first_loss(trainer)
    loss.backward()
    found = [p.grad.clone() for p in trainer.model.parameters() if p.requires_grad]
    trainer.model.zero_grad()
    trainer.nelbo_loss.score(
        policy.denoiser(), *batch.values(), rollouts[0].draws, args.temperature
    ).sequence_bound.mean().div(SFT_CANVAS).backward()
    expected = [p.grad for p in trainer.model.parameters() if p.requires_grad]
    assert sum(gradient.norm() for gradient in expected) > 1e-2
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-6, rtol=1e-4)


# ---- SFT: metrics ---------------------------------------------------------------------------------------------------

EXPECTED = {"probability", "rolled_out", "mean_offset", "accuracy", "forwards", "seconds"}
EXPECTED |= {"exposure_bias", "nelbo_clean", "nelbo_rolled_out"}


@pytest.mark.parametrize(("solver", "shape"), [*((solver, "linear") for solver in SOLVERS), ("unipc", "cosine")])
def test_every_sampler_trains_and_logs_complete_metrics_along_the_ramp(make_sft, solver, shape):
    options = {"scheduled_sampling_sampler": solver, "scheduled_sampling_ramp_shape": shape}
    trainer = make_sft(max_steps=5, **RAMP, **options)
    assert trainer.objective.scheduled.sampler == solver
    start = state(trainer.model)
    trainer.train()
    assert not equal(state(trainer.model), start)
    for step, entry in enumerate(rows(trainer)):
        logged = {key.split("/")[1]: value for key, value in entry.items() if key.startswith("scheduled_sampling/")}
        # the first row has no micro-step before it to measure from
        assert logged.keys() == EXPECTED | ({"step_seconds"} if step else set())
        assert all(math.isfinite(value) for value in logged.values())
        ramp = min(step / 4, 1.0) if shape == "linear" else math.sin(math.pi / 2 * min(step / 4, 1.0)) ** 2
        assert logged["probability"] == pytest.approx(0.3 + 0.6 * ramp)
        assert 0 < logged["rolled_out"] <= 1 and 0 <= logged["accuracy"] <= 1 and 0 < logged["mean_offset"] <= 5
        assert logged["forwards"] >= 1 and logged["seconds"] > 0 and logged.get("step_seconds", 1.0) > 0
        # same weights, masks and targets: the difference of two columns
        difference = logged["nelbo_rolled_out"] - logged["nelbo_clean"]
        assert logged["exposure_bias"] == pytest.approx(difference, rel=1e-4, abs=1e-4)


def test_logged_numbers_are_those_of_the_rollout_and_the_bound_is_of_sequences_left_alone(make_sft, record):
    trainer = make_sft(**ON, num_draws=4)
    rollouts = record(trainer.objective.scheduled, "roll_out")
    estimates = record(trainer.nelbo_loss, "estimate")
    trainer.train()
    for entry, rollout, estimate in zip(rows(trainer), rollouts, estimates[:: len(estimates) // 2], strict=True):
        moved, bound = rollout.draws.rolled_out, estimate.sequence_bound
        assert 0 < moved.sum() < 8
        assert entry["nelbo"] == pytest.approx(bound[~moved].mean().item())
        assert entry["scheduled_sampling/nelbo_rolled_out"] == pytest.approx(bound[moved].mean().item())
        assert entry["scheduled_sampling/rolled_out"] == moved.float().mean().item()
        assert entry["scheduled_sampling/mean_offset"] == pytest.approx(rollout.offset[moved].float().mean().item())
        assert entry["scheduled_sampling/forwards"] == rollout.forwards
        right = (rollout.self_revealed & ~rollout.wrong).sum() / rollout.self_revealed.sum()
        assert entry["scheduled_sampling/accuracy"] == pytest.approx(right.item())


def test_exposure_bias_is_measured_only_before_a_row_of_the_log_and_changes_no_weight(make_sft, record):
    finals = []
    for logging_steps, measured in ((1, 8), (2, 4), (4, 2)):
        calls = record(trainers.exposure, "exposure_bias")
        trainer = make_sft(max_steps=4, gradient_accumulation_steps=2, logging_steps=logging_steps, **ON)
        trainer.train()
        assert len(calls) == measured
        assert all("scheduled_sampling/exposure_bias" in entry for entry in rows(trainer))
        finals.append(state(trainer.model))
    assert equal(finals[0], finals[1]) and equal(finals[0], finals[2])


def test_exposure_bias_measured_in_parts_is_that_of_the_whole(make_sft, record):
    trainer = make_sft(**ON)
    rollouts = record(trainer.objective.scheduled, "roll_out")
    batch, _ = first_loss(trainer)
    assert 2 < rollouts[0].draws.rolled_out.sum() < 8
    common = trainer.nelbo_loss, trainer.policy.denoiser(), tuple(batch.values()), 1.0
    whole, parts = (
        rollout_metrics(rollouts[0], trainer.objective.scheduled, 0, 0.0, True, *common, size) for size in (None, 2)
    )
    assert parts == pytest.approx(whole, rel=1e-5) and "scheduled_sampling/exposure_bias" in whole


def test_evaluation_never_sees_states_of_the_models_own_making(make_sft, record):
    without = make_sft().evaluate()
    trainer = make_sft(**ON | {"scheduled_sampling_probability": 0.9}, **LOSSES)
    rollouts = record(trainer.objective.scheduled, "roll_out")
    found = trainer.evaluate()
    assert found["eval_loss"] == without["eval_loss"] and found["eval_nelbo"] == without["eval_nelbo"]
    assert not rollouts and not any("scheduled_sampling" in key for key in found)


def test_killed_sft_run_resumes_bit_by_bit_in_the_middle_of_a_ramp(make_sft, tmp_path):
    def make(path):
        options = {"max_steps": 4, "gradient_accumulation_steps": 2, **RAMP, **LOSSES, **SAVING}
        return make_sft(output_dir=str(path), **options)

    assert_resumes_bit_by_bit(make, tmp_path, 2, "substep")


# ---- GRPO -----------------------------------------------------------------------------------------------------------


class Watching(ImprovedDiffuGRPOTrainer):
    """Keeps what scheduled sampling made of the states, every batch, and the log-probs of every loss."""

    def __init__(self, *args, **kwargs):
        self.rollouts, self.batches, self.micro_batches, self.estimates = [], [], [], []
        super().__init__(*args, **kwargs)
        roll_out = self.scheduled.roll_out
        self.scheduled.roll_out = lambda *a: self.rollouts.append(roll_out(*a)) or self.rollouts[-1]
        scored = self.meter.scored
        self.meter.scored = lambda estimate, *a: scored(estimate, *a) or self.estimates.append(estimate)

    def _generate_and_score_completions(self, inputs):
        self.batches.append(super()._generate_and_score_completions(inputs))
        return self.batches[-1]

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        i = (self._step // self.args.steps_per_generation) % self.num_iterations if self.model.training else 0
        width = inputs["completion_ids"].size(1)
        current = self.estimates[-1].per_token_logps.detach()[:, :width]
        both = [inputs[f"{k}_per_token_logps"][:, i] for k in ("old", "ref")]
        gaps = [current - by_sign(logps, inputs["advantages"]) for logps in both]
        self.micro_batches.append({"inputs": inputs, "iteration": i, "gaps": gaps})
        return loss


@pytest.fixture
def make_watching(make_grpo):
    def build(**options):
        torch.manual_seed(0)  # decides trl's shuffle of rows and a fresh adapter
        return make_grpo(cls=Watching, beta=0.1, **options)

    return build


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
def test_before_an_update_all_policies_agree_exactly_on_rolled_out_states(make_watching, adapter):
    options = REUSED | ON | {"p_mask_prompt": 0.3, "peft_config": adapter}
    trainer = make_watching(learning_rate=0.0, max_steps=8, **options)
    trainer.train()
    assert [seen["iteration"] for seen in trainer.micro_batches] == [0, 0, 0, 0, 1, 1, 1, 1] * 2
    for seen in trainer.micro_batches:
        assert all(gap.abs().max() == 0.0 for gap in seen["gaps"])
    assert sum(int(rollout.wrong.sum()) for rollout in trainer.rollouts) > 100
    for entry in rows(trainer):
        assert entry["ratio_log_max"] == entry["ratio_log_std"] == entry["kl"] == 0.0


def test_ratios_leave_one_only_after_an_update(make_watching):
    trainer = make_watching(max_steps=4, **REUSED, **ON)
    trainer.train()
    drift = [seen["gaps"][0].abs().max().item() for seen in trainer.micro_batches]
    assert drift[:2] == [0.0, 0.0] and min(drift[2:]) > 0


def test_shown_tokens_stay_with_their_completion_and_differ_only_where_self_revealed(make_watching):
    trainer = make_watching(max_steps=4, **REUSED, **ON)
    trainer.train()
    batch, parts = trainer.batches[0], trainer.rollouts
    assert len(parts) == 8, "4 micro-batches for each of 2 iterations"
    made = [RollOut.cat(parts[:4]), RollOut.cat(parts[4:])]
    canvas, shown = batch["canvas_ids"], batch["draws/shown"]
    assert shown.shape == (16, 2, 2, 14) and batch["draws/rolled_out"].shape == (16, 2)
    for i, rollout in enumerate(made):
        assert torch.equal(shown[:, i] != canvas.unsqueeze(1), rollout.wrong)
        assert not (rollout.wrong & (rollout.draws.hidden | ~rollout.self_revealed)).any()
        assert not rollout.wrong[~batch["draws/rolled_out"][:, i]].any()
    assert not torch.equal(shown[:, 0], shown[:, 1])

    where = {tuple(ids): row for row, ids in enumerate(canvas.tolist())}
    assert len(where) == 16
    order = []
    for seen in trainer.micro_batches:
        for row in range(4):
            inputs = {key: value[row] for key, value in seen["inputs"].items() if value.ndim}
            order.append(where[tuple(inputs["canvas_ids"].tolist())])
            for key, value in inputs.items():
                assert torch.equal(value, batch[key][order[-1]]), key
    assert sorted(order[:16]) == list(range(16)) != order[:16] == order[16:]


def test_switched_off_every_way_leaves_grpo_bit_by_bit_as_without(make_watching):
    runs = []
    for options in ({}, *OFF.values()):
        trainer = make_watching(max_steps=2, **GRPO, **options)
        trainer.train()
        runs.append((state(trainer.model), rows(trainer, "loss", "nelbo", "kl", "ratio_log_max", "reward")))
    (weights, log), *others = runs
    for other, same_log in others:
        assert equal(other, weights) and same_log == log


def test_a_failing_reward_stops_no_run(make_grpo):
    def broken(completions, **kwargs):
        raise KeyError("answer")

    trainer = make_grpo(reward=broken, **GRPO, **ON)
    trainer.train()
    assert rows(trainer, "rewards/broken/failed")[0] == (1.0,)


def test_grpo_logs_complete_metrics_and_the_bound_of_sequences_left_alone(make_watching):
    trainer = make_watching(max_steps=4, **GRPO, **RAMP)
    trainer.train()
    for step, (entry, estimate) in enumerate(zip(rows(trainer), trainer.estimates, strict=True)):
        logged = {key.split("/")[1]: value for key, value in entry.items() if key.startswith("scheduled_sampling/")}
        inputs, i = (trainer.micro_batches[step][key] for key in ("inputs", "iteration"))
        moved, bound = inputs["draws/rolled_out"][:, i], estimate.sequence_bound
        assert 0 < moved.sum() < 8
        assert entry["nelbo"] == pytest.approx(bound[~moved].mean().item())
        assert logged.pop("nelbo_rolled_out") == pytest.approx(bound[moved].mean().item())
        assert math.isfinite(entry["nelbo_standard_error"])
        if i == 1:  # this step replays the rollout
            assert not logged and entry["time/scheduled_sampling"] == 0
            continue
        assert logged.keys() == EXPECTED - {"nelbo_rolled_out"}
        assert all(math.isfinite(value) for value in logged.values())
        assert logged["probability"] == pytest.approx(0.3 + 0.6 * step / 4)
        assert entry["time/scheduled_sampling"] > logged["seconds"] > 0, "two iterations are rolled out"
        made = trainer.rollouts[step : step + 2]
        assert logged["forwards"] == sum(rollout.forwards for rollout in made) / 2


def test_exposure_bias_is_measured_at_the_last_rollout_before_a_row_of_the_log(make_grpo, record):
    """Rollouts are made at steps 0, 2, 4, 6; rows are written after steps 3 and 7."""
    calls = record(trainers.exposure, "exposure_bias")
    trainer = make_grpo(max_steps=8, logging_steps=4, **GRPO, **ON)
    trainer.train()
    assert len(calls) == 4, "two iterations each"
    assert all(math.isfinite(entry["scheduled_sampling/exposure_bias"]) for entry in rows(trainer))


def test_grpo_evaluates_on_states_of_the_data(make_watching):
    evaluated = []
    for options in ({}, ON):
        trainer = make_watching(**GRPO, **options)
        found = trainer.evaluate()
        assert not trainer.rollouts and "draws/shown" not in trainer.batches[0]
        evaluated.append([found[key] for key in ("eval_loss", "eval_nelbo", "eval_reward")])
    assert evaluated[0] == evaluated[1]


def test_grpo_leaves_mode_and_random_state_as_they_were(make_grpo):
    trainer = make_grpo(**GRPO, **ON)
    trainer.model.train()
    trainer.model.model.layers[0].mlp.eval()
    modes = [module.training for module in trainer.model.modules()]
    prompts = trainer.policy.tokenizer(list(trainer.train_dataset["prompt"][:8]))["input_ids"]
    randomness = torch.get_rng_state()
    trainer._generate_single_turn(prompts)
    assert torch.equal(torch.get_rng_state(), randomness)
    assert [module.training for module in trainer.model.modules()] == modes
    assert not trainer._stored.draws.shown.requires_grad


def test_killed_grpo_run_resumes_bit_by_bit_between_two_iterations(make_grpo, tmp_path):
    def make(path):
        options = {"max_steps": 4, "beta": 0.1, "p_mask_prompt": 0.3, **GRPO, **RAMP, **SAVING}
        return make_grpo(output_dir=str(path), **options)

    assert_resumes_bit_by_bit(make, tmp_path, 3)


def test_a_rewarded_character_becomes_frequent(make_grpo):
    def share_of_sevens(completions, **kwargs):
        return [text.count("7") / 14 for text in completions]

    options = {"per_device_train_batch_size": 32, "num_generations": 8, "loss_type": "dr_grpo"}
    trainer = make_grpo(reward=share_of_sevens, nelbo_source="forward", max_steps=8, **ON, **options)
    trainer.train()
    rewards = [entry["reward"] for entry in rows(trainer)]
    assert rewards[0] < 0.1 and min(rewards[-2:]) > 0.5
