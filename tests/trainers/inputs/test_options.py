"""Default options as TRL makes them, and arguments of TRL's constructors that are refused by name."""

import inspect

import pytest
from trl import DPOTrainer, GRPOConfig, GRPOTrainer, SFTTrainer

from trainers.dpo import DiffusionDPOTrainer
from trainers.grpo import ImprovedDiffuGRPOTrainer
from trainers.inputs.options import (
    UNTAKEN_DPO,
    UNTAKEN_GRPO,
    UNTAKEN_SFT,
    options_of,
    refuse_arguments,
)
from trainers.settings.grpo import ImprovedDiffuGRPOConfig
from trainers.settings.options import ConfigError
from trainers.settings.sft import DiffusionSFTConfig
from trainers.sft import DiffusionSFTTrainer

TRAINERS = [
    (ImprovedDiffuGRPOTrainer, GRPOTrainer, UNTAKEN_GRPO),
    (DiffusionSFTTrainer, SFTTrainer, UNTAKEN_SFT),
    (DiffusionDPOTrainer, DPOTrainer, UNTAKEN_DPO),
]


def arguments(trainer):
    return set(inspect.signature(trainer.__init__).parameters) - {"self", "kwargs"}


@pytest.mark.parametrize("model", ["a-lab/a-model", "runs/a-model/", "a-model"])
def test_without_options_the_directory_is_named_as_by_trl(model):
    found = options_of(ImprovedDiffuGRPOConfig, None, model, "GRPO")
    assert found == ImprovedDiffuGRPOConfig("a-model-GRPO")


def test_a_model_that_has_no_name_gives_that_of_its_class(make_policy):
    policy = make_policy()
    for model in (policy, policy.model):
        assert options_of(DiffusionSFTConfig, None, model, "SFT").output_dir == "LlamaForCausalLM-SFT"


def test_default_options_have_the_blocks_of_a_model_of_blocks(stand_in):
    path, _ = stand_in("llada2")
    assert options_of(ImprovedDiffuGRPOConfig, None, str(path), "GRPO").block_length == 32


def test_options_of_trl_alone_are_refused(tmp_path):
    own = ImprovedDiffuGRPOConfig(str(tmp_path))
    assert options_of(ImprovedDiffuGRPOConfig, own, "tiny", "GRPO") is own
    with pytest.raises(ConfigError, match="args=GRPOConfig: expected ImprovedDiffuGRPOConfig"):
        options_of(ImprovedDiffuGRPOConfig, GRPOConfig(str(tmp_path), use_cpu=True), "tiny", "GRPO")


@pytest.mark.parametrize(("ours", "trls", "untaken"), TRAINERS)
def test_what_is_refused_are_arguments_of_trl(ours, trls, untaken):
    assert untaken.keys() <= arguments(trls)
    assert not untaken.keys() & arguments(ours)
    assert {"model", "args", "train_dataset", "eval_dataset", "processing_class", "peft_config"} <= arguments(ours)
    assert arguments(ours) <= arguments(trls)


@pytest.mark.parametrize(("ours", "name"), [(ours, name) for ours, _, untaken in TRAINERS for name in untaken])
def test_an_argument_that_cannot_be_honoured_is_refused_before_anything_else(ours, name):
    given = {"model": "nowhere", name: object()} | ({"reward_funcs": len} if "GRPO" in ours.__name__ else {})
    with pytest.raises(ConfigError, match=f"^{name}: not supported: "):
        ours(**given)


def test_an_argument_that_is_none_is_left_out_and_others_are_handed_on():
    given = {"ref_model": None, "callbacks": [1]}
    assert refuse_arguments(given, UNTAKEN_DPO) == {"callbacks": [1]}
