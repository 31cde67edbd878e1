"""The header says what a run is; suggestions name published values that it does not have."""

import io
from dataclasses import fields

import pytest
from paths import CONFIGS
from rich.console import Console

from trainers.experiment import build_trainer, load_experiment_policy, load_task
from trainers.models.families import FAMILIES
from trainers.reporting.header import header_lines, run_header, suggested_lines
from trainers.settings.config import CONFIGS as CONFIGS_OF_TRAINERS
from trainers.settings.config import parse
from trainers.settings.model import ModelArguments
from trainers.settings.options import dotted

SMALL = ["--task.train_size", "64", "--task.validation_size", "8", "--task.test_size", "8", "--report_to", "none"]


def lines_of(config, resume=None):
    task, splits = load_task(config.task)
    policy = load_experiment_policy(config, splits["train"])
    return header_lines(config, build_trainer(config, task, splits, policy), splits, resume)


def texts(lines, what):
    return [text for name, text in lines if name == what]


def test_the_header_of_a_grpo_run_multiplies_out(tmp_path):
    batches = ["--per_device_train_batch_size", "16", "--num_generations", "8", "--gradient_accumulation_steps", "2"]
    more = ["--steps_per_generation", "4", "--num_iterations", "2", "--max_steps", "6", "--output_dir", str(tmp_path)]
    config = parse([str(CONFIGS / "trajectory_nelbo_gsm8k.yaml"), *SMALL, *batches, *more])
    lines = lines_of(config, resume=tmp_path / "checkpoint-2")
    assert texts(lines, "batch") == [
        "8 prompts x 8 = 64 completions a rollout; 4 updates each, 2 passes over it",
        "16 a step x 2 accumulated x 1 process = 32 completions an update",
        "6 updates on 12 of 64 training rows",
    ]
    assert texts(lines, "rewards") == ["1 x correctness + 1 x format_reward"]
    assert "steps of the rollout, merged to 2; prompts stay visible" in texts(lines, "likelihood")[0]
    assert texts(lines, "starts") == [f"from {tmp_path / 'checkpoint-2'}"]
    assert "8 held-out problems before and after" in texts(lines, "measured")[0]
    assert f"{tmp_path}: checkpoint every 50 steps" in texts(lines, "saved")[0]


def test_the_header_of_an_sft_run_with_an_adapter_says_what_is_trained(tmp_path):
    more = ["--output_dir", str(tmp_path), "--model.use_peft", "true", "--model.from_scratch", "false"]
    lines = lines_of(parse([str(CONFIGS / "sft_gsm8k.yaml"), *SMALL, *more, "--masking.p_mask_prompt", "0.25"]))
    assert "trained (" in texts(lines, "model")[0] and "all trained" not in texts(lines, "model")[0]
    assert texts(lines, "likelihood") == ["trajectory_nelbo on fresh masks, 2 a text; 25% of a prompt masked"]
    assert not texts(lines, "rewards") and texts(lines, "batch")[0].endswith("128 texts an update")


@pytest.mark.parametrize("width", [40, 80])
def test_the_header_folds_and_loses_nothing(width):
    out, text = io.StringIO(), "a value that is said here " * 5
    Console(file=out, width=width).print(run_header([("batch", text), ("batch", "second"), ("run", "[red]x")]))
    printed = out.getvalue()
    assert max(map(len, printed.splitlines())) <= width
    assert " ".join(printed.split()) == f"batch {text}second run [red]x"


# ---- suggestions ----------------------------------------------------------------------------------------------------


def test_suggestions_differ_from_the_config_and_name_their_source(tmp_path):
    (tmp_path / "c.yaml").write_text("generation: {max_completion_length: 256, steps: 64}")
    path = str(tmp_path / "c.yaml")
    whole, rate = suggested_lines(parse([path, "--learning_rate", "2e-5"]), "llada")
    assert "steps 128 (here 64)" in whole and "block_length 32 (here unset)" in whole and "d1 @" in whole
    assert "max_completion_length" not in whole, "it has that already"
    assert "learning_rate 1e-06 (here 2e-05)" in rate and "lora" not in rate
    adapted = suggested_lines(parse([path, "--model.use_peft", "true"]), "llada")[1]
    assert "learning_rate 3e-06" in adapted and "lora_r 128 (here unset)" in adapted


def test_a_config_that_follows_them_has_none(tmp_path):
    (tmp_path / "c.yaml").write_text("generation: {steps: 128, block_length: 32}\ntraining: {learning_rate: 1.0e-6}")
    assert suggested_lines(parse([str(tmp_path / "c.yaml")]), "llada") == []


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.suggested])
def test_every_suggestion_is_a_possible_config_with_a_source(tmp_path, name):
    (tmp_path / "c.yaml").write_text("{}")
    known = {dotted(f) for cls in (*CONFIGS_OF_TRAINERS.values(), ModelArguments) for f in fields(cls)}
    for suggestion in FAMILIES[name].suggested:
        assert suggestion.values.keys() <= known
        repository, _, commit = suggestion.source.split(",")[0].partition(" @ ")
        assert repository.count("/") == 1 and len(commit) == 7
        pairs = [text for key, value in suggestion.values.items() for text in (f"--{key}", str(value))]
        parse([str(tmp_path / "c.yaml"), "--trainer", suggestion.trainer, *pairs])
