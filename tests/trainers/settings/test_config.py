"""A config is read as written, from any spelling, or refused in one line that says why."""

import itertools
import json
import warnings
from dataclasses import fields
from inspect import signature

import pytest
import torch
import yaml
from paths import CONFIGS
from trl import GRPOConfig, SFTConfig

from core.alpha_schedule import SCHEDULES, AlphaSchedule
from core.likelihoods import ESTIMATORS
from core.sampling import SAMPLERS, SOLVERS
from core.scheduled_sampling import STRATEGIES, ScheduledSampling
from trainers.settings.config import CONFIGS as CONFIGS_OF_TRAINERS
from trainers.settings.config import parse
from trainers.settings.grpo import ImprovedDiffuGRPOConfig
from trainers.settings.model import ModelArguments
from trainers.settings.objects import build_likelihood
from trainers.settings.options import SECTIONS, ConfigError
from trainers.settings.parser import SHARED, SectionParser
from trainers.settings.sft import DiffusionSFTConfig
from trainers.settings.task import TaskArguments
from trainers.settings.unsupported import UNSUPPORTED, UNSUPPORTED_SFT, check_supported

EXAMPLE = {
    "generation": {"steps": 8, "max_completion_length": 16},
    "loss": {"alpha_schedule": "linear"},
    "task": {"rewards": ["correctness"]},
    "training": {"learning_rate": 1e-5},
}
# scheduled_sampling: key -> (default, another value, which SFT accepts beside the other ones)
SAMPLING = {
    "max_step_offset": (0, 10),
    "probability": (0.0, 0.25),
    "ramp_steps": (0, 100),
    "prob_start": (0.0, 0.125),
    "prob_end": (0.5, 0.375),
    "start_step": (0, 5),
    "ramp_shape": ("linear", "cosine"),
    "strategy": ("uniform", "biased_late"),
    "sampler": ("unipc", "dpm"),
    "reflexflow": (None, True),
    "reflexflow_alpha": (1.0, 2.0),
    "reflexflow_beta1": (10.0, 3.0),
    "reflexflow_beta2": (1.0, 0.5),
    "visible_loss": (0.0, 0.75),
}
SET = {key: value for key, (_, value) in SAMPLING.items()}
ON = "scheduled_sampling_max_step_offset: 4\nscheduled_sampling_probability: 0.5\n"
SFT = "trainer: sft\n"
FLOW = "trainer: sft\nprediction_type: flow_matching\n"
BLOCKS = "model: {attention: block_causal}\n"


def sampling(training):
    return {key: getattr(training, f"scheduled_sampling_{key}") for key in SAMPLING}


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="x.yaml"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return str(path)

    return write_file


# what the file says, overrides, fragments of the message
REFUSED = [
    # names
    ("los: {alpha_min: 0.1}", [], ["unknown section 'los'", "'loss'", "masking"]),
    ("loss: {alpha_shedule: linear}", [], ["loss.alpha_shedule", "did you mean 'loss.alpha_schedule'"]),
    ("alpha_shedule: linear", [], ["did you mean 'loss.alpha_schedule'"]),
    ("{}", ["--learning-rat", "1"], ["did you mean 'training.learning_rate'"]),
    ("{}", ["--los.alpha_min", "1"], ["los.alpha_min", "did you mean 'loss.alpha_min'", "masking"]),
    ("{}", ["--alpha", ".5"], ["unknown setting 'alpha'"]),  # no abbreviations
    ("{}", ["--steps", "4"], ["did you mean 'generation.steps'"]),
    ("loss: {p_mask_prompt: 0.1}", [], ["loss.p_mask_prompt", "belongs to section masking", "masking.p_mask_prompt"]),
    ("model: {name: tiny}", [], ["did you mean 'model.name_or_path'"]),  # though task.name exists
    ("loss: {steps: 4}", [], ["belongs to section generation", "generation.steps"]),
    ("masking: {alpha_schedule: linear}", [], ["schedule is set once, in loss", "loss.alpha_schedule"]),
    ("{}", ["--generation.alpha_min", ".1"], ["schedule is set once, in loss", "loss.alpha_min"]),
    ("trainer: sft\ntraining: {num_generations: 8}", [], ["only trainer grpo has it"]),
    ("trainer: ppo", [], ["trainer='ppo'", "grpo, sft, dpo"]),
    ("{}", ["--trainer"], ["trainer=()", "grpo, sft, dpo"]),
    # one setting, two values
    ("generation: {steps: 4}\nmax_timesteps: 8", [], ["generation.steps is set twice", "4", "max_timesteps=8"]),
    ("generation: {steps: 4, max_timesteps: 8}", [], ["generation.steps is set twice"]),
    ("generation: {steps: 4, steps: 8}", [], ["line 1", "'steps' is given twice"]),
    ("{}", ["--loss.alpha_min", ".1", "--alpha-min", ".2"], ["loss.alpha_min is set twice", "0.1", "0.2"]),
    # types
    ("generation: {steps: many}", [], ["generation.steps", "a whole number", "'many'"]),
    ("generation: {steps: 7.5}", [], ["generation.steps", "a whole number", "7.5"]),
    ("generation: {steps: [7]}", [], ["generation.steps", "a whole number", "[7]"]),
    ("generation: {steps: true}", [], ["generation.steps", "a whole number", "True"]),
    ("model: {use_peft: perhaps}", [], ["model.use_peft", "true or false", "'perhaps'"]),
    ("model: {use_peft: []}", [], ["model.use_peft", "true or false", "[]"]),
    ("task: {rewards: []}", [], ["task.rewards", "one or more", "[]"]),
    ("training: {learning_rate: {a: 1}}", [], ["training.learning_rate", "a number", "{'a': 1}"]),
    ("training: {save_strategy: often}", [], ["training.save_strategy", "steps", "'often'"]),
    ("{}", ["--max_steps"], ["training.max_steps", "no value"]),
    ("{}", ["--max_steps", "5", "other.yaml"], ["training.max_steps", "other.yaml"]),
    # values
    ("loss: {alpha_min: -0.1}", [], ["loss.alpha_min=-0.1", "0 <= alpha_min < alpha_max <= 1"]),
    ("loss: {alpha_max: 1.5}", [], ["loss.alpha_max=1.5", "0 <= alpha_min < alpha_max <= 1"]),
    ("loss: {alpha_min: 0.9, alpha_max: 0.1}", [], ["loss.alpha_min=0.9", "alpha_max=0.1"]),
    ("loss: {alpha_min: .nan}", [], ["loss.alpha_min=nan"]),
    ("loss: {num_draws: 0}", [], ["loss.num_draws=0", "at least 1"]),
    ("loss: {num_draws: 3, coupling: antithetic}", [], ["loss.num_draws=3", "even"]),
    # likelihood
    (
        "loss: {trajectory_nelbo_loss: false}",
        [],
        ["loss.trajectory_nelbo_loss=False", "true or unset beside loss.likelihood=trajectory_nelbo"],
    ),
    (
        "loss: {trajectory_nelbo_loss: true, likelihood: one_step}",
        [],
        ["loss.trajectory_nelbo_loss=True", "false or unset beside loss.likelihood=one_step"],
    ),
    ("loss: {likelihood: coupled, num_draws: 2}", [], ["loss.num_draws=2", "odd and at least 3"]),
    ("loss: {likelihood: coupled}", ["--num_draws", "1"], ["loss.num_draws=1", "odd and at least 3"]),
    ("loss: {likelihood: complementary, num_draws: 3}", [], ["loss.num_draws=3", "even", "complements"]),
    ("loss: {likelihood: quadrature, num_draws: 0}", [], ["loss.num_draws=0", "at least 1"]),
    ("loss: {likelihood: spg, ratio: plain}", [], ["loss.ratio='plain'", "one of none, weighted"]),
    ("loss: {likelihood: spg}", ["--loss.ratio", "normalised"], ["loss.ratio='normalised'", "one of none, weighted"]),
    ("loss: {likelihood: spg, eubo_power: 0.5}", [], ["loss.eubo_power=0.5", "at least 1"]),
    ("loss: {likelihood: spg, eubo_power: .nan}", [], ["loss.eubo_power=nan", "at least 1 and finite"]),
    ("loss: {likelihood: spg, eubo_power: .inf}", [], ["loss.eubo_power=inf", "at least 1 and finite"]),
    ("likelihood: spg", ["--eubo_share", "1.5"], ["loss.eubo_share=1.5", "a share in [0, 1]"]),
    ("likelihood: spg\nmasking: {strategy_type: full}", [], ["masking.strategy_type='full'", "loss.likelihood=spg"]),
    ("loss: {likelihood: rollout, shrinkage: 0}", [], ["loss.shrinkage=0", "at least 1"]),
    ("loss: {likelihood: rollout, shrinkage: 4, num_draws: 2}", [], ["loss.shrinkage=4", "loss.num_draws=2 unset"]),
    (
        "likelihood: selection_replay",
        [],
        ["loss.likelihood='selection_replay'", "generation.selection=low_confidence"],
    ),
    (
        "likelihood: selection_replay\ngeneration: {selection: low_confidence, sampler: renoise}",
        [],
        ["loss.likelihood='selection_replay'", "generation.selection=low_confidence"],
    ),
    (
        "likelihood: selection_replay\ngeneration: {selection: low_confidence}",
        ["--loss.replay", "segments"],
        ["loss.replay='segments'", "use drawn or all"],
    ),
    (
        "likelihood: selection_replay\ngeneration: {selection: low_confidence, temperature: 0}",
        [],
        ["generation.temperature=0.0", "above 0", "greedy"],
    ),
    (f"{ON}likelihood: spg", [], ["loss.likelihood='spg'", "trajectory_nelbo for scheduled sampling"]),
    (f"{ON}likelihood: monte_carlo", [], ["loss.likelihood='monte_carlo'", "trajectory_nelbo for scheduled sampling"]),
    ("trainer: sft\nloss: {likelihood: one_step}", [], ["loss.likelihood='one_step'", "trajectory_nelbo: SFT"]),
    ("likelihood: monte_carlo", ["--trainer", "sft"], ["loss.likelihood='monte_carlo'", "trajectory_nelbo: SFT"]),
    ("loss: {wd1_psi: 2}", [], ["loss.wd1_psi=2.0", "only with loss.advantage_weighting=wd1"]),
    ("advantage_weighting: wd1", ["--wd1_psi", "0"], ["loss.wd1_psi=0.0", "a finite number above 0"]),
    ("loss: {advantage_weighting: wd1, wd1_psi: .inf}", [], ["loss.wd1_psi=inf", "a finite number above 0"]),
    ("trainer: sft\nadvantage_weighting: wd1", [], ["advantage_weighting", "only trainer grpo has it"]),
    # other values
    ("generation: {steps: 0}", [], ["generation.steps=0", "at least 1"]),
    ("generation: {temperature: -1}", [], ["generation.temperature=-1.0", "at least 0"]),
    ("generation: {temperature: 0}", [], ["generation.temperature=0.0", "greedy"]),
    ("generation: {block_length: 100}", [], ["generation.block_length=100", "divisor", "256"]),
    ("generation: {block_length: 64, steps: 6}", [], ["generation.block_length=64", "here 4", "steps=6"]),
    ("masking: {p_mask_prompt: 1.1}", [], ["masking.p_mask_prompt=1.1", "[0, 1]"]),
    ("masking: {strategy_type: full}\nloss: {source: forward}", [], ["masking.strategy_type='full'", "no bound"]),
    (
        "masking: {strategy_type: full}\ngeneration: {sampler: ancestral}",
        [],
        ["masking.strategy_type='full'", "ancestral"],
    ),
    ("model: {dtype: float8}", [], ["model.dtype='float8'", "bfloat16"]),
    ("model: {lora_r: 0}", [], ["model.lora_r=0", "at least 1"]),
    ("model: {lora_dropout: 1}", [], ["model.lora_dropout=1.0", "[0, 1)"]),
    ("task: {max_operations: 2, min_operations: 3}", [], ["task.max_operations=2", "task.min_operations=3"]),
    ("task: {train_size: 0}", [], ["task.train_size=0", "at least 1"]),
    ("task: {data_files: [a], dataset_name: b}", [], ["task.dataset_name='b'", "task.data_files"]),
    ("training: {num_generations: 3}", [], ["training.per_device_train_batch_size=8", "num_generations=3"]),
    ("trainer: sft\nloss: {source: rollout}", [], ["loss.source='rollout'", "no recorded rollout"]),
    ("trainer: sft\ntraining: {packing: true}", [], ["training.packing=True", "fixed length"]),
    # scheduled sampling
    (f"{SFT}generation: {{steps: 3}}\n{ON}", [], ["scheduled_sampling.max_step_offset=4", "generation.steps=3"]),
    (ON, [], ["loss.source='rollout'", "'forward' for scheduled sampling", "no exposure bias to remove"]),
    (f"{ON}masking: {{strategy_type: full}}", [], ["masking.strategy_type='full'", "'diffusion' for scheduled"]),
    ("scheduled_sampling: true", [], ["section 'scheduled_sampling'", "True"]),
    ("scheduled_sampling: {prob: 1}", [], ["did you mean 'scheduled_sampling.probability'"]),
    ("scheduled_sampling_prob_ends: 1", [], ["did you mean 'scheduled_sampling.prob_end'"]),
    ("loss: {max_step_offset: 1}", [], ["belongs to section scheduled_sampling"]),
    (ON, ["--scheduled_sampling.probability", "1", "--scheduled_sampling_probability", "0"], ["is set twice"]),
    # solvers and flow matching
    ("generation: {solver: dpm}", [], ["generation.solver='dpm'", "generation.sampler=ancestral", "flow_matching"]),
    ("generation: {solver: rk4, sampler: renoise}", [], ["generation.solver='rk4'", "generation.sampler=ancestral"]),
    ("prediction_type: flow_matching", [], ["loss.prediction_type='flow_matching'", "no token likelihood"]),
    ("prediction_type: flow_matching\ngeneration: {block_length: 64}", [], ["'masked' for GRPO"]),  # the first reason
    (f"{FLOW}generation: {{block_length: 64}}", [], ["generation.block_length=64", "whole canvas", "masked"]),
    (f"{FLOW}generation: {{sampler: ancestral}}", [], ["generation.sampler='ancestral'", "generation.solver"]),
    ("generation: {counts: dream, sampler: revise}", [], ["generation.counts='dream'", "sampler=count_matched"]),
    (f"{FLOW}generation: {{counts: dream}}", [], ["generation.counts='dream'", "loss.prediction_type=masked"]),
    (f"{FLOW}masking: {{strategy_type: full}}", [], ["masking.strategy_type='full'", "'diffusion' for flow matching"]),
    (f"{SFT}flow_noise_scale: 2", [], ["loss.flow_noise_scale=2.0", "only with loss.prediction_type=flow_matching"]),
    (f"{FLOW}flow_noise_scale: 0", [], ["loss.flow_noise_scale=0.0", "a finite number above 0"]),
    (f"{FLOW}flow_noise_scale: .inf", [], ["loss.flow_noise_scale=inf", "a finite number above 0"]),
    # block-causal models
    (BLOCKS, [], ["generation.block_length=None", "the tokens of a block for model.attention=block_causal"]),
    (FLOW + BLOCKS, [], ["loss.prediction_type='flow_matching'", "'masked' for model.attention=block_causal"]),
    (
        f"{SFT}{BLOCKS}{ON}block_length: 64",
        [],
        ["scheduled_sampling.max_step_offset=4", "0 for model.attention=block_causal", "whole canvas"],
    ),
    # files
    ("", [], ["x.yaml", "empty"]),
    ("- 1", [], ["x.yaml", "list"]),
    ("loss: cosine", [], ["section 'loss'", "'cosine'"]),
    ("loss:\n  a: [1\nb: 2", [], ["x.yaml, line 3"]),
]


@pytest.mark.parametrize(("text", "overrides", "fragments"), REFUSED)
def test_refusal_names_key_value_and_what_is_allowed(write, text, overrides, fragments):
    with pytest.raises(ConfigError) as caught:
        parse([write(text), *overrides])
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message


# options of section loss that belong to some estimators: key -> (constructor's argument, a value of its own)
OWN_OPTIONS = {
    "source": ("source", "forward"),
    "coupling": ("coupling", "antithetic"),
    "replay": ("replay", "all"),
    "shrinkage": ("shrinkage", 3),
    "eubo_power": ("power", 2.0),
    "eubo_share": ("upper_share", 0.25),
    "ratio": ("ratio", "weighted"),
}
BESIDE = {"selection_replay": ["--selection", "low_confidence"]}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_option_reaches_the_estimators_that_take_it_and_is_refused_beside_the_others(write, name):
    path = write({"loss": {"likelihood": name}})
    for key, (argument, value) in OWN_OPTIONS.items():
        takers = [known for known, estimator in ESTIMATORS.items() if argument in signature(estimator).parameters]
        argv = [path, *BESIDE.get(name, []), f"--loss.{key}", str(value)]
        if name in takers:
            built = build_likelihood(parse(argv).training)
            assert type(built) is ESTIMATORS[name]
            assert getattr(built, argument) == value
            continue
        with pytest.raises(ConfigError) as caught:
            parse(argv)
        message = str(caught.value)
        assert message == f"loss.{key}={value!r}: only with loss.likelihood={' or '.join(takers)}"


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_is_built_on_the_one_schedule_with_its_own_number_of_states(write, name):
    settings = ["--generation.steps", "8", "--alpha_schedule", "linear", "--alpha_min", ".1"]
    found = build_likelihood(parse([write("{}"), "--likelihood", name, *BESIDE.get(name, []), *settings]).training)
    assert found.schedule == AlphaSchedule("linear", 8, 0.1, 0.99)
    assert (found.num_draws, found.ratio) == (ESTIMATORS[name].default_draws, ESTIMATORS[name].ratios[0])


# keys of scheduled_sampling that are refused alike: file, keys, values, what the message says
COUNTS = ("max_step_offset", "ramp_steps", "start_step")
CHANCES = ("probability", "prob_start", "prob_end")
RAMP = ("start_step", "prob_start", "prob_end", "ramp_shape")
WEIGHTS = ("reflexflow_alpha", "reflexflow_beta1", "reflexflow_beta2")
REFLEX = "scheduled_sampling_reflexflow"
REFUSED_ALIKE = [
    (SFT, COUNTS, (-1,), "at least 0"),
    (SFT + "scheduled_sampling_ramp_steps: 9", CHANCES, (-0.5, 1.5, "nan"), "a probability in [0, 1]"),
    (SFT + ON + f"{REFLEX}: true", (*WEIGHTS, "visible_loss"), (-1, "nan", "inf"), "a finite number of at least 0"),
    (SFT + ON, RAMP, (None,), "only with scheduled_sampling.ramp_steps > 0"),
    (SFT + ON, ("prob_end",), (0,), "only with scheduled_sampling.ramp_steps > 0"),
    (SFT + ON, WEIGHTS, (None, 0), "only with ReflexFlow on"),  # unset: off for masked prediction
    (FLOW + ON + f"{REFLEX}: false", WEIGHTS, (None, 0), "only with ReflexFlow on"),
    (FLOW, WEIGHTS, (None, 0), "only with ReflexFlow on"),
    (SFT, ("reflexflow", "visible_loss"), (None,), "only with scheduled sampling on (max_step_offset > 0"),
    (SFT + "scheduled_sampling_max_step_offset: 4", ("reflexflow", "visible_loss"), (None,), "only with scheduled"),
    (SFT + "scheduled_sampling_ramp_steps: 4", ("reflexflow", "visible_loss"), (None,), "only with scheduled"),
    (FLOW + ON, ("visible_loss",), (None,), "loss.prediction_type=masked: flow matching hides no token"),
    (ON + "nelbo_source: forward", ("reflexflow",), (None,), "false or unset for GRPO: it pulls towards the sampled"),
    (
        ON + "nelbo_source: forward",
        ("visible_loss",),
        (None,),
        "0 for GRPO: it pulls towards the sampled text whatever",
    ),
]


@pytest.mark.parametrize(("text", "keys", "values", "reason"), REFUSED_ALIKE)
def test_refusal_of_scheduled_sampling_names_key_and_reason(write, text, keys, values, reason):
    path = write(text)
    for key, value in itertools.product(keys, values):
        with pytest.raises(ConfigError) as caught:
            parse([path, f"--scheduled_sampling.{key}", str(SET[key] if value is None else value)])
        assert str(caught.value).startswith(f"scheduled_sampling.{key}=")
        assert reason in str(caught.value)


@pytest.mark.parametrize("argv", [[], ["a.yaml", "b.yaml"], ["--max_steps", "3"]])
def test_call_without_one_config_file_says_how_to_call(argv):
    with pytest.raises(ConfigError, match=r"call: train\.py configs/x\.yaml"):
        parse(argv)


@pytest.mark.parametrize("path", ["missing.yaml", "."])
def test_unreadable_file_is_named(path):
    with pytest.raises(ConfigError, match=f"config file {path}"):
        parse([path])


REGISTRIES = {
    "generation.sampler": ", ".join(SAMPLERS),
    "generation.solver": "euler, dpm, unipc, rk4",
    "generation.counts": "schedule, dream",
    "generation.selection": "low_confidence, top1",
    "loss.alpha_schedule": ", ".join(SCHEDULES),
    "loss.likelihood": ", ".join(ESTIMATORS),
    "loss.ratio": "normalised, weighted, plain, none",
    "loss.advantage_weighting": "advantage, wd1",
    "loss.prediction_type": "masked, flow_matching",
    "loss.source": "rollout, forward",
    "loss.coupling": "nested, antithetic, independent",
    "loss.replay": "drawn, segments, all",
    "masking.strategy_type": "diffusion, full",
    "model.attention": "bidirectional, block_causal",
    "scheduled_sampling.ramp_shape": "linear, cosine",
    "scheduled_sampling.strategy": "uniform, biased_early, biased_late",
    "scheduled_sampling.sampler": "euler, dpm, unipc, rk4",
}


@pytest.mark.parametrize("name", REGISTRIES)
def test_unknown_name_lists_the_known_ones(write, name):
    with pytest.raises(ConfigError) as caught:
        parse([write("{}"), f"--{name}", "nonsense"])
    assert f"{name}='nonsense'" in str(caught.value)
    assert REGISTRIES[name] in str(caught.value)


NEW = {
    "alpha_schedule": (SCHEDULES, "linear", []),
    "likelihood": (ESTIMATORS, "one_step", []),
    "sampler": (SAMPLERS, "renoise", []),
    "solver": (SOLVERS, "euler", ["--sampler", "ancestral"]),
    "scheduled_sampling_sampler": (SOLVERS, "euler", []),
    "scheduled_sampling_strategy": (STRATEGIES, "uniform", []),
}


@pytest.mark.parametrize("name", NEW)
def test_new_entry_of_a_dict_of_core_is_accepted(write, monkeypatch, name):
    registry, like, beside = NEW[name]
    monkeypatch.setitem(registry, "novelty", registry[like])
    assert getattr(parse([write("{}"), f"--{name}", "novelty", *beside]).training, name) == "novelty"


ALTERED = {
    "use_vllm": True,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "generation_kwargs": {"num_beams": 2},
    "cache_implementation": "static",
    "use_transformers_continuous_batching": True,
    "transformers_continuous_batching_config": {"a": 1},
    "use_transformers_paged": True,
    "max_tool_calling_iterations": 2,
    "cast_lm_head_to_fp32": True,
    "use_liger_kernel": True,
    "model_init_kwargs": {"dtype": "bfloat16"},
    "pad_to_multiple_of": 8,
    "neftune_noise_alpha": 5.0,
    "entropy_coef": 0.01,
    "use_adaptive_entropy": True,
    "packing": True,
    "eval_packing": True,
    "padding_free": True,
    "loss_type": "dft",
}


@pytest.mark.parametrize(
    ("cls", "name", "reason"),
    [(ImprovedDiffuGRPOConfig, *item) for item in UNSUPPORTED.items()]
    + [(DiffusionSFTConfig, *item) for item in UNSUPPORTED_SFT.items()],
)
def test_trl_option_that_cannot_be_honoured_is_refused_with_its_reason(cls, name, reason):
    with pytest.raises(ConfigError) as caught:
        cls(**{name: ALTERED[name]})
    assert f"training.{name}=" in str(caught.value)
    assert reason in str(caught.value)


def test_change_after_construction_is_found_by_check_supported():
    args = ImprovedDiffuGRPOConfig()
    check_supported(args)
    args.top_k = 3
    with pytest.raises(ConfigError, match="top_k=3"):
        check_supported(args)


@pytest.mark.parametrize(
    "override",
    [
        ["--loss.alpha_min", "0.2"],
        ["--loss.alpha_min=0.2"],
        ["--alpha_min", "0.2"],
        ["--alpha-min=0.2"],
        ["--loss.alpha-min", "2e-1"],
        ["--alpha_min", "0.2", "--loss.alpha_min", ".20"],
    ],
)
def test_every_spelling_overrides_the_file(write, override):
    assert parse([write("loss: {alpha_min: 0.1}"), *override]).training.alpha_min == 0.2


def test_key_and_field_name_are_one_setting(write):
    path = write("generation: {steps: 4}\nmax_timesteps: 4\nloss: {nelbo_source: forward}")
    training = parse([path, "--masking.p_mask_prompt", "0"]).training
    assert (training.max_timesteps, training.nelbo_source, training.p_mask_prompt) == (4, "forward", 0.0)


def test_values_take_the_type_of_their_field(write):
    text = """
    training:
      learning_rate: 1e-5        # PyYAML reads a string
      save_strategy: no          # PyYAML reads false
      report_to: [tensorboard, none]
      lr_scheduler_kwargs: {num_cycles: 2}
      bf16: false
    """
    config = parse([write(text), "--use_peft", "--lora_target_modules", "q", "v", "--no_shuffle_dataset"])
    assert config.training.learning_rate == 1e-5
    assert config.training.save_strategy == "no"
    assert config.training.report_to == ["tensorboard", "none"]
    assert config.training.lr_scheduler_kwargs == {"num_cycles": 2}
    assert config.training.shuffle_dataset is False
    assert config.model.use_peft is True
    assert config.model.lora_target_modules == ["q", "v"]


def test_negative_number_is_a_value(write):
    assert parse([write("{}"), "--max_steps", "-1", "--weight_decay", "-1e-5"]).training.weight_decay == -1e-5


def options(form, settings):
    return [word for key, value in settings.items() for word in form.format(key=key, value=value).split()]


# section scheduled_sampling, written in every way: (settings) -> (file, its name, command line)
WRITTEN = {
    "nested": lambda settings: ({"scheduled_sampling": settings}, "x.yaml", []),
    "nested, flat names": lambda settings: (
        {"scheduled_sampling": {f"scheduled_sampling_{key}": value for key, value in settings.items()}},
        "x.yaml",
        [],
    ),
    "flat": lambda settings: ({f"scheduled_sampling_{key}": v for key, v in settings.items()}, "x.yaml", []),
    "json": lambda settings: (json.dumps({"scheduled_sampling": settings}), "x.json", []),
    "command, dotted": lambda settings: ("{}", "x.yaml", options("--scheduled_sampling.{key} {value}", settings)),
    "command, flat": lambda settings: ("{}", "x.yaml", options("--scheduled_sampling_{key} {value}", settings)),
    "command, equals": lambda settings: ("{}", "x.yaml", options("--scheduled_sampling_{key}={value}", settings)),
    "command, dashes": lambda settings: ("{}", "x.yaml", options("--scheduled-sampling-{key} {value}", settings)),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_scheduled_sampling_is_read_from_every_spelling(write, name):
    document, file, command = WRITTEN[name](SET)
    assert sampling(parse([write(document, file), "--trainer", "sft", *command]).training) == SET


@pytest.mark.parametrize("cls", [ImprovedDiffuGRPOConfig, DiffusionSFTConfig])
def test_scheduled_sampling_is_off_by_default(cls):
    args = cls()
    assert sampling(args) == {key: default for key, (default, _) in SAMPLING.items()}
    assert (args.solver, args.prediction_type, args.flow_noise_scale) == ("euler", "masked", 1.0)
    assert not args.scheduled_sampling_active
    assert not args.reflexflow_on


def test_every_option_of_scheduled_sampling_is_in_the_table():
    names = {f.name for f in fields(DiffusionSFTConfig) if f.metadata.get("section") == "scheduled_sampling"}
    assert names == {f"scheduled_sampling_{key}" for key in SAMPLING}


def test_a_ramp_may_start_or_end_at_probability_0(write):
    up = write({"scheduled_sampling": {"ramp_steps": 8, "max_step_offset": 4, "prob_start": 0.2, "prob_end": 0.3}})
    down = write(f"{SFT}{ON}scheduled_sampling: {{ramp_steps: 8, prob_start: 0.3, prob_end: 0}}", "down.yaml")
    for argv, ends in (
        ([up, "--trainer", "sft", "--scheduled_sampling.prob_start", "0.0"], (0.0, 0.3)),
        ([down], (0.3, 0.0)),
    ):
        training = parse(argv).training
        assert (training.scheduled_sampling_prob_start, training.scheduled_sampling_prob_end) == ends
        assert training.scheduled_sampling_active


def test_config_and_core_agree_on_when_scheduled_sampling_is_active():
    for offset, probability, ramp in itertools.product((0, 3), (0.0, 0.5), (0, 7)):
        args = DiffusionSFTConfig(
            scheduled_sampling_max_step_offset=offset,
            scheduled_sampling_probability=probability,
            scheduled_sampling_ramp_steps=ramp,
        )
        core = ScheduledSampling(max_step_offset=offset, probability=probability, ramp_steps=ramp)
        assert args.scheduled_sampling_active == core.active == (offset > 0 and (probability > 0 or ramp > 0))


@pytest.mark.parametrize(
    ("text", "switch", "on"),
    [
        (SFT + ON, "null", False),
        (SFT + ON, "false", False),
        (SFT + ON, "true", True),
        (FLOW + ON, "null", True),
        (FLOW + ON, "false", False),
        (FLOW + ON, "true", True),
        (FLOW, "null", False),
        (FLOW, "false", False),  # an opt-out where there is nothing to opt out of
        ("", "false", False),
    ],
)
def test_reflexflow_is_on_for_flow_matching_unless_told_otherwise(write, text, switch, on):
    training = parse([write(f"{text}seed: 1"), f"--scheduled_sampling_reflexflow={switch}"]).training
    assert training.scheduled_sampling_reflexflow is yaml.safe_load(switch)
    assert training.reflexflow_on is on


ALLOWED = {
    "off: no offset": f"{SFT}scheduled_sampling: {{probability: 1, ramp_steps: 10}}",
    "off: no probability": "scheduled_sampling: {max_step_offset: 128}",
    "grpo on forward states": f"{ON}loss: {{source: forward}}",
    "sft": f"{SFT}{ON}scheduled_sampling: {{visible_loss: 1, reflexflow: true, reflexflow_alpha: 0}}",
    "longest offset": f"{SFT}{ON}generation: {{steps: 4}}",
    "ancestral solver": "generation: {sampler: ancestral, solver: rk4}",
    "likelihood": "loss: {likelihood: rollout, trajectory_nelbo_loss: false, shrinkage: 4, ratio: weighted}",
    "likelihood by its other name": "loss: {trajectory_nelbo_loss: true, num_draws: 4, ratio: plain}",
    "weighting": "loss: {likelihood: spg, eubo_power: 2, advantage_weighting: wd1, wd1_psi: 0.5}",
    "flow matching": f"{FLOW}{ON}generation: {{solver: unipc}}\nscheduled_sampling: {{reflexflow_beta2: 3}}",
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_allowed_round_trips_through_its_description(write, name):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "scheduled_sampling", UserWarning)
        first = parse([write(ALLOWED[name])])
    again = parse([write(first.describe(), "again.yaml")])
    assert again.describe() == first.describe()
    assert again.training.to_dict() == first.training.to_dict()
    assert sampling(again.training) == sampling(first.training)


def test_description_names_every_option_of_scheduled_sampling(write):
    described = parse([write(SFT), *options("--scheduled_sampling_{key} {value}", SET)]).describe()
    assert described == {"trainer": "sft", "scheduled_sampling": SET}
    assert sampling(parse([write(described)]).training) == SET


def test_fully_self_generated_states_are_warned_about(write):
    path = write(SFT + ON)
    with pytest.warns(UserWarning, match="scheduled_sampling.probability=1.0: .*Huszar 2015") as caught:
        parse([path, "--scheduled_sampling_probability", "1"])
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "scheduled_sampling", UserWarning)
        parse([path, "--scheduled_sampling_probability", "0.99"])
        parse([path, "--scheduled_sampling_probability", "1", "--scheduled_sampling.ramp_steps", "9"])
        parse([path, "--scheduled_sampling_probability", "1", "--scheduled_sampling.max_step_offset", "0"])


def test_null_is_the_default(write):
    path = write("loss: {alpha_min: null}\ngeneration: {block_length: 16, max_completion_length: 32}\nmodel:\n")
    assert parse([path]).training.alpha_min == 0.01
    assert parse([path, "--block_length", "null"]).training.block_length is None


def test_json_reads_as_yaml(write):
    from_json = parse([write(json.dumps(EXAMPLE, indent="\t"), "x.json")])
    from_yaml = parse([write(EXAMPLE)])
    assert from_json.describe() == from_yaml.describe()
    assert from_json.training.to_dict() == from_yaml.training.to_dict()
    assert from_json.training.learning_rate == 1e-5


def test_description_is_the_deviations_and_a_valid_config(write):
    first = parse([write(EXAMPLE | {"seed": 42}), "--loss.alpha_max", "0.99"])
    assert first.describe() == {"trainer": "grpo"} | EXAMPLE  # seed 42 and alpha_max .99 are defaults
    second = parse([write(json.dumps(first.describe()), "again.json")])
    assert (second.training.to_dict(), second.model, second.task) == (
        first.training.to_dict(),
        first.model,
        first.task,
    )


def test_trainer_chooses_the_class(write):
    assert type(parse([write("{}")]).training) is ImprovedDiffuGRPOConfig
    assert type(parse([write("trainer: sft")]).training) is DiffusionSFTConfig
    config = parse([write("{}"), "--trainer=sft"])
    assert config.trainer == "sft"
    assert config.training.nelbo_source == "forward"


def test_remote_code_is_one_flag_for_the_loader_and_for_trl(write):
    config = parse([write("model: {trust_remote_code: true}")])
    assert config.model.trust_remote_code
    assert config.training.trust_remote_code


@pytest.mark.parametrize("cls", [ImprovedDiffuGRPOConfig, DiffusionSFTConfig])
def test_defaults_run_on_this_machine(cls):
    args = cls()
    assert args.use_cpu != torch.accelerator.is_available()
    assert args.bf16 == torch.accelerator.is_available()
    assert not args.gradient_checkpointing
    assert args.report_to == ["tensorboard"]


@pytest.mark.parametrize("trainer", CONFIGS_OF_TRAINERS)
def test_no_two_dataclasses_share_a_flag(trainer):
    names = [f.name for cls in (CONFIGS_OF_TRAINERS[trainer], ModelArguments, TaskArguments) for f in fields(cls)]
    assert {name for name in names if names.count(name) > 1} == SHARED
    parser = SectionParser(trainer)
    assert len(set(parser.dotted.values())) == len(parser.dotted)
    assert not set(SECTIONS) & set(names)
    # no spelling of one field is a spelling of another
    assert all(parser.names[name] == field and parser.names[field] == field for field, name in parser.dotted.items())


@pytest.mark.parametrize(("ours", "trl"), [(ImprovedDiffuGRPOConfig, GRPOConfig), (DiffusionSFTConfig, SFTConfig)])
def test_every_option_of_ours_has_a_section_and_help(ours, trl):
    inherited = {f.name for f in fields(trl)}
    options = [f for cls in (ours, ModelArguments, TaskArguments) for f in fields(cls)]
    for option in options:
        if option.name not in inherited:
            assert option.metadata["section"] in SECTIONS
            assert option.metadata["help"]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_config_parses_and_round_trips(path, write):
    config = parse([str(path)])
    assert config.config_path == path
    again = parse([write(config.describe())])
    assert again.describe() == config.describe()


def test_readme_commands_swap_the_schedule():
    path = str(CONFIGS / "trajectory_nelbo_gsm8k.yaml")
    for schedule in SCHEDULES:
        training = parse([path, "--loss.alpha_schedule", schedule]).training
        assert (training.alpha_schedule, training.max_timesteps) == (schedule, 7)
