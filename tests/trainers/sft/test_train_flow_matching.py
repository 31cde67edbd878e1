"""Flow matching on TRL's trainer: the flow learns, its space stands still, and options meet the objects they name."""

import math
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from resumes import SAVING, assert_resumes_bit_by_bit

from core.flow import ODE_SOLVERS
from core.masking_strategy import sync_masking_with_nelbo
from trainers.evaluating.evaluation import Evaluator, encode_prompts
from trainers.settings.objects import build_generator, build_loss, build_masking
from trainers.settings.options import ConfigError
from trainers.sft.trainer import DiffusionSFTTrainer
from trainers.tasks import gsm8k

LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
FLOW = {"prediction_type": "flow_matching"}
ON = {"scheduled_sampling_max_step_offset": 5, "scheduled_sampling_probability": 0.5}
WEIGHTS = {
    "scheduled_sampling_reflexflow_alpha": 2.0,
    "scheduled_sampling_reflexflow_beta1": 3.0,
    "scheduled_sampling_reflexflow_beta2": 0.7,
}
REFLEX = {"anti_drift", "frequency_compensation", "exposure_bias"}


@pytest.fixture
def make_flow(make_sft):
    return lambda **options: make_sft(**FLOW | options)


@pytest.fixture
def record(monkeypatch):
    """Let a function of an object go on as it is, and keep (keyword arguments and all) what came in and went out."""

    def start(owner, name):
        function, kept = getattr(owner, name), []

        def recorded(*args, **kwargs):
            result = function(*args, **kwargs)
            kept.append(SimpleNamespace(args=args, kwargs=kwargs, result=result))
            return result

        monkeypatch.setattr(owner, name, recorded)
        return kept

    return start


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rows(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def scheduled(entry):
    return {key.split("/")[1]: value for key, value in entry.items() if key.startswith("scheduled_sampling/")}


def first_loss(trainer):
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    return trainer.compute_loss(trainer.model, batch)


# ---- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, ON], ids=["alone", "rolled out"])
def test_loss_falls_and_the_embeddings_stay(make_flow, options):
    trainer = make_flow(max_steps=30, **options)
    start, before = state(trainer.model), trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert 0 < after["eval_loss"] < 0.6 * before["eval_loss"]
    assert after["eval_loss"] == pytest.approx(after["eval_cross_entropy"]), "8 problems are one batch"
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, start[name])}
    assert changed == start.keys() - {"model.embed_tokens.weight"}
    assert not trainer.model.get_input_embeddings().weight.requires_grad


@pytest.mark.parametrize("options", [{"gradient_checkpointing": True}, {"bf16": True}], ids=str)
def test_every_option_of_the_forward_trains_all_layers_beneath_given_embeddings(make_flow, options):
    trainer = make_flow(max_steps=1, **ON, **options)
    start = state(trainer.model)
    trainer.train()
    assert math.isfinite(rows(trainer)[0]["loss"]) and rows(trainer)[0]["grad_norm"] > 0
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, start[name])}
    assert changed == start.keys() - {"model.embed_tokens.weight"}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora_trains_the_adapter_alone(make_flow, make_policy, checkpointing):
    policy = make_policy()
    before = state(policy.model)
    plain = make_flow(gradient_checkpointing=checkpointing, **ON)
    trainer = DiffusionSFTTrainer(policy, plain.args, plain.train_dataset, peft_config=LORA)
    trainer.train()
    after = {name.replace(".base_layer", ""): value for name, value in policy.model.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    adapters = [value for name, value in after.items() if "lora_B" in name]
    assert adapters and all(value.abs().sum() > 0 for value in adapters)


def test_head_tied_to_the_embeddings_is_one_clear_error(make_flow, make_policy):
    with pytest.raises(ConfigError) as error:
        make_flow(policy=make_policy(tie_word_embeddings=True))
    message = str(error.value)
    assert "loss.prediction_type='flow_matching'" in message and "tie_word_embeddings=false" in message
    assert "\n" not in message


def test_grpo_is_refused_because_an_ode_gives_no_token_likelihood(grpo_args):
    with pytest.raises(ConfigError, match=r"loss\.prediction_type='flow_matching'.*no token likelihood"):
        grpo_args(**FLOW)


def test_equal_seeds_give_equal_weights_and_other_seeds_other_ones(make_flow):
    finals = []
    for seed in (0, 0, 1):
        trainer = make_flow(max_steps=3, seed=seed, **ON)
        trainer.train()
        finals.append(state(trainer.model))
    assert equal(finals[0], finals[1]) and not equal(finals[0], finals[2])


def test_killed_run_resumes_bit_by_bit(make_flow, tmp_path):
    def make(path):
        return make_flow(output_dir=str(path), max_steps=4, gradient_accumulation_steps=2, **ON, **SAVING)

    assert_resumes_bit_by_bit(make, tmp_path, 2, "substep")


def test_noise_is_new_at_every_micro_step(make_flow, record):
    trainer = make_flow(max_steps=2, gradient_accumulation_steps=2)
    calls = record(trainer.objective.flow, "draw")
    trainer.train()
    # not the noise itself: it is drawn after the prompts' masks, whose number differs by batch anyway
    assert len({tuple(call.result.timestep.flatten().tolist()) for call in calls}) == len(calls) == 4


# ---- scheduled sampling and ReflexFlow ------------------------------------------------------------------------------


def test_switched_off_every_way_leaves_the_flow_bit_by_bit_as_without(make_flow):
    not_yet = {"scheduled_sampling_ramp_steps": 9, "scheduled_sampling_start_step": 50}
    ways = [
        {},
        ON | {"scheduled_sampling_max_step_offset": 0},
        ON | {"scheduled_sampling_probability": 0.0},
        {"scheduled_sampling_max_step_offset": 5, **not_yet},
    ]
    runs = []
    for options in ways:
        trainer = make_flow(max_steps=2, gradient_accumulation_steps=2, p_mask_prompt=0.3, **options)
        trainer.train()
        runs.append((state(trainer.model), [(e["loss"], e["cross_entropy"]) for e in rows(trainer)]))
    (weights, log), *others = runs
    for other, same_log in others:
        assert equal(other, weights) and same_log == log


def test_the_same_noise_is_drawn_with_and_without_and_sources_lie_within_reach(make_flow, record):
    drawn = []
    for options in ({}, ON):
        trainer = make_flow(max_steps=2, learning_rate=0.0, p_mask_prompt=0.3, **options)
        calls = record(trainer.objective.flow, "score")
        trainer.train()
        drawn.append([(call.args[4], call.args[5]) for call in calls])
    for (before, none), (after, source) in zip(*drawn, strict=True):
        assert equal(vars(before), vars(after)) and none is None
        offset = source - after.timestep
        assert offset.min() >= 0 and 0 < offset.max() <= 5


@pytest.mark.parametrize("solver", ODE_SOLVERS)
@pytest.mark.parametrize("reflexflow", [None, False])
def test_every_sampler_trains_and_reflexflow_is_on_until_it_is_refused(make_flow, record, solver, reflexflow):
    weights = {} if reflexflow is False else WEIGHTS
    trainer = make_flow(
        max_steps=2, scheduled_sampling_sampler=solver, scheduled_sampling_reflexflow=reflexflow, **ON, **weights
    )
    calls = record(trainer.objective.flow, "score")
    start = state(trainer.model)
    trainer.train()
    assert not equal(state(trainer.model), start)
    expected = {"probability", "rolled_out", "mean_offset", "forwards", "cross_entropy_rolled_out"}
    for step, (entry, call) in enumerate(zip(rows(trainer), calls, strict=True)):
        logged, estimate, asked = scheduled(entry), call.result, call.args[7]
        assert call.args[6] == solver
        assert logged.pop("step_seconds", 1.0) > 0 and all(math.isfinite(value) for value in logged.values())
        assert logged.keys() == expected | (REFLEX if reflexflow is None else set()), step
        assert logged["probability"] == 0.5 and logged["forwards"] == estimate.forwards
        moved = estimate.rolled_out
        assert entry["cross_entropy"] == pytest.approx(estimate.cross_entropy[~moved].mean().item())
        on_own = estimate.cross_entropy[moved].mean().item()
        assert logged["cross_entropy_rolled_out"] == pytest.approx(on_own)
        total = estimate.cross_entropy.mean().item()
        if reflexflow is None:
            assert vars(asked) == {"alpha": 2.0, "beta1": 3.0, "beta2": 0.7}
            share = moved.float().mean().item()
            total += share * (3.0 * logged["anti_drift"] + 0.7 * logged["frequency_compensation"])
        else:
            assert asked is None
        assert entry["loss"] == pytest.approx(total, rel=1e-4)


def test_rolled_out_and_offset_mean_what_they_mean_for_masks(make_flow, record):
    trainer = make_flow(max_steps=1, **ON)
    calls = record(trainer.objective.scheduled, "draw_sources")
    drawn = record(trainer.objective.flow, "draw")
    trainer.train()
    (source, chosen), logged = calls[0].result, scheduled(rows(trainer)[0])
    assert 0 < chosen.sum() < 8
    assert logged["rolled_out"] == chosen.float().mean().item()
    offset = (source - drawn[0].result.timestep)[chosen]
    assert logged["mean_offset"] == pytest.approx(offset.float().mean().item())


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
def test_model_and_random_state_are_untouched_and_one_forward_has_a_graph(make_flow, make_policy, adapter):
    policy, calls, args = make_policy(), [], make_flow(**ON).args
    trainer = DiffusionSFTTrainer(policy, args, make_flow().train_dataset, peft_config=adapter)
    trainer.model.train()
    policy.model.model.layers[0].mlp.eval()
    policy.model.register_forward_pre_hook(lambda module, _: calls.append((module.training, torch.is_grad_enabled())))
    before = [(m.training, [p.requires_grad for p in m.parameters()]) for m in trainer.model.modules()]
    batch = next(iter(trainer.get_train_dataloader()))
    randomness = torch.get_rng_state()
    loss = trainer.compute_loss(trainer.model, batch)
    assert torch.equal(torch.get_rng_state(), randomness)
    assert [(m.training, [p.requires_grad for p in m.parameters()]) for m in trainer.model.modules()] == before
    assert loss.requires_grad and torch.is_grad_enabled()
    # the forward with gradient; the clean states it is compared with, in its mode; the walk
    assert calls.count((True, True)) == 1 and calls.count((True, False)) == 1 and calls.count((False, False)) > 1


# ---- evaluation -----------------------------------------------------------------------------------------------------


def test_evaluations_use_one_noise_and_are_never_rolled_out(make_flow, record):
    plain = make_flow().evaluate()
    trainer = make_flow(max_steps=1, learning_rate=0.0, **ON | {"scheduled_sampling_probability": 0.9})
    calls = record(trainer.objective.flow, "score")
    first = trainer.evaluate()
    trainer.train()
    second = trainer.evaluate()
    assert first["eval_loss"] == second["eval_loss"] == plain["eval_loss"]
    assert [call.args[5] is None for call in calls] == [True, False, True]
    assert not any("scheduled_sampling" in key for key in first)


def test_prediction_step_uses_one_noise_and_builds_no_graph(make_flow):
    trainer = make_flow(**ON)
    batch = next(iter(trainer.get_eval_dataloader()))
    trainer.model.eval()
    losses = [trainer.prediction_step(trainer.model, batch, True)[0] for _ in range(2)]
    assert torch.equal(*losses) and not losses[0].requires_grad


# ---- sampling -------------------------------------------------------------------------------------------------------


@pytest.fixture
def sampler_parts(make_flow):
    """(args, schedule, masking) of a flow with a solver."""

    def build(solver):
        args = make_flow(solver=solver).args
        loss, masking = build_loss(args), build_masking(args)
        return args, sync_masking_with_nelbo(masking, loss), masking

    return build


@pytest.mark.parametrize("solver", ODE_SOLVERS)
def test_every_solver_completes_prompts_through_generator_and_evaluator(sampler_parts, make_policy, splits, solver):
    args, schedule, masking = sampler_parts(solver)
    policy = make_policy()
    sampler = build_generator(args, policy.denoiser(), schedule, masking, policy.tokenizer.eos_token_id)
    batch = encode_prompts(policy, splits["test"]["prompt"][:4])
    trajectory = sampler.generate(batch["input_ids"], batch["attention_mask"], torch.Generator().manual_seed(0))
    steps = args.max_timesteps + 2
    assert trajectory.ids.shape == (4, 20) and not (trajectory.ids == policy.mask_id).any()
    # rk4: four evaluations a step, one for the step to the data
    assert trajectory.forwards.tolist() == [4 * steps - 3 if solver == "rk4" else steps] * 4

    problems = splits["test"].select(range(6))
    both, again, other = (
        Evaluator(args, schedule, masking, gsm8k, problems, seed, batch_size=4).both(policy) for seed in (0, 0, 1)
    )
    assert both["sampled"].completions == again["sampled"].completions != other["sampled"].completions
    assert both["greedy"].completions == other["greedy"].completions, "temperature 0 knows no chance"
    assert both["sampled"].completions != both["greedy"].completions
    assert both["sampled"].forwards == trajectory.forwards[0]
