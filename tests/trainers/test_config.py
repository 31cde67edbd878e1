"""A config is read as written, from any spelling, or refused in one line that says why."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from trl import GRPOConfig, SFTConfig

from core.alpha_schedule import SCHEDULES
from trainers.config import (
    SECTIONS,
    UNSUPPORTED,
    UNSUPPORTED_SFT,
    ConfigError,
    DiffusionSFTConfig,
    ImprovedDiffuGRPOConfig,
    ModelArguments,
    TaskArguments,
    check_supported,
)
from trainers.config_parser import SHARED, TRAINERS, SectionParser, parse

CONFIGS = Path(__file__).parents[2] / "configs"
EXAMPLE = {
    "generation": {"steps": 8, "max_completion_length": 16},
    "loss": {"alpha_schedule": "linear"},
    "task": {"rewards": ["correctness"]},
    "training": {"learning_rate": 1e-5},
}


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
    ("trainer: dpo", [], ["trainer='dpo'", "grpo, sft"]),
    ("{}", ["--trainer"], ["trainer=()", "grpo, sft"]),
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
    ("loss: {trajectory_nelbo_loss: false}", [], ["loss.trajectory_nelbo_loss=False", "only likelihood so far"]),
    ("generation: {steps: 0}", [], ["generation.steps=0", "at least 1"]),
    ("generation: {temperature: -1}", [], ["generation.temperature=-1.0", "at least 0"]),
    ("generation: {temperature: 0}", [], ["generation.temperature=0.0", "greedy"]),
    ("generation: {block_length: 100}", [], ["generation.block_length=100", "divisor", "256"]),
    ("generation: {block_length: 64, steps: 6}", [], ["generation.block_length=64", "here 4", "steps=6"]),
    ("masking: {p_mask_prompt: 1.1}", [], ["masking.p_mask_prompt=1.1", "[0, 1]"]),
    ("masking: {strategy_type: full}\nloss: {source: forward}", [], ["masking.strategy_type='full'", "no bound"]),
    ("model: {dtype: float8}", [], ["model.dtype='float8'", "bfloat16"]),
    ("model: {lora_r: 0}", [], ["model.lora_r=0", "at least 1"]),
    ("model: {lora_dropout: 1}", [], ["model.lora_dropout=1.0", "[0, 1)"]),
    ("task: {max_operations: 2, min_operations: 3}", [], ["task.max_operations=2", "task.min_operations=3"]),
    ("task: {train_size: 0}", [], ["task.train_size=0", "at least 1"]),
    ("task: {data_files: [a], dataset_name: b}", [], ["task.dataset_name='b'", "task.data_files"]),
    ("training: {num_generations: 3}", [], ["section training", "num_generations"]),  # TRL's own check
    ("trainer: sft\nloss: {source: rollout}", [], ["loss.source='rollout'", "no recorded rollout"]),
    ("trainer: sft\ntraining: {packing: true}", [], ["training.packing=True", "fixed length"]),
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


@pytest.mark.parametrize("argv", [[], ["a.yaml", "b.yaml"], ["--max_steps", "3"]])
def test_call_without_one_config_file_says_how_to_call(argv):
    with pytest.raises(ConfigError, match=r"call: train\.py configs/x\.yaml"):
        parse(argv)


@pytest.mark.parametrize("path", ["missing.yaml", "."])
def test_unreadable_file_is_named(path):
    with pytest.raises(ConfigError, match=f"config file {path}"):
        parse([path])


REGISTRIES = {
    "generation.sampler": "count_matched, ancestral, renoise",
    "generation.selection": "low_confidence, top1",
    "loss.alpha_schedule": ", ".join(SCHEDULES),
    "loss.source": "rollout, forward",
    "loss.coupling": "nested, antithetic, independent",
    "loss.replay": "drawn, segments, all",
    "masking.strategy_type": "diffusion, full",
}


@pytest.mark.parametrize("name", REGISTRIES)
def test_unknown_name_lists_the_known_ones(write, name):
    with pytest.raises(ConfigError) as caught:
        parse([write("{}"), f"--{name}", "nonsense"])
    assert f"{name}='nonsense'" in str(caught.value)
    assert REGISTRIES[name] in str(caught.value)


def test_new_schedule_of_core_is_accepted(write, monkeypatch):
    monkeypatch.setitem(SCHEDULES, "staircase", SCHEDULES["linear"])
    assert parse([write("{}"), "--alpha_schedule", "staircase"]).training.alpha_schedule == "staircase"


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


@pytest.mark.parametrize("trainer", TRAINERS)
def test_no_two_dataclasses_share_a_flag(trainer):
    names = [f.name for cls in (TRAINERS[trainer], ModelArguments, TaskArguments) for f in fields(cls)]
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


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["--trainer", "sft", "--help"]])
def test_help_groups_options_by_section(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(argv)
    assert caught.value.code == 0
    text = capsys.readouterr().out
    places = [text.index(f"\n{section}:\n") for section in SECTIONS]
    assert places == sorted(places)
    assert "--generation.steps VALUE  [--max_timesteps]" in text
    assert "--loss.alpha_schedule" in text
    assert ("--training.packing" in text) == ("sft" in argv)
    assert "cost of ~10% slower performance" in " ".join(text.split())
    assert "'option_strings'" not in text  # what argparse prints for a help text with a bare %


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
