"""Mixtures of experts train at default settings: no loss of their routers, and adapters on attention alone."""

import pytest
import torch
from torch import nn
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
from watching import digit_reward
from zoo.standins import load

from trainers.grpo.trainer import ImprovedDiffuGRPOTrainer
from trainers.models.adapters import lora_config
from trainers.models.experts import attention_linears, has_experts, trains_separate_experts
from trainers.models.policy import Policy
from trainers.settings.dpo import DiffusionDPOConfig
from trainers.settings.grpo import ImprovedDiffuGRPOConfig
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError
from trainers.settings.sft import DiffusionSFTConfig

SELF_ATTENTION = [f"self_attn.{name}_proj" for name in "koqv"]


def mixture(tokenizer, asks=False):
    """Of transformers' own class, with random weights."""
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 24, "num_hidden_layers": 1}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.25}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "is_causal": False}
    asked = {"output_router_logits": asks, "use_cache": False}
    torch.manual_seed(0)
    config = Qwen3MoeConfig(vocab_size=len(tokenizer), **ends, **sizes, **experts, **heads, **asked)
    return Policy(Qwen3MoeForCausalLM(config), tokenizer)


def targets(model, **options):
    return lora_config(ModelArguments(use_peft=True, **options), model).target_modules


@pytest.mark.parametrize("name", ["llada_moe", "llada2"])
def test_a_fresh_adapter_goes_to_the_attention_of_a_mixture_of_experts(stand_in, name):
    model = load(name, stand_in(name)[0]).model
    assert has_experts(model.config) and targets(model) == set(SELF_ATTENTION)
    assert targets(model, lora_target_modules=["gate_proj"]) == {"gate_proj"}
    assert targets(None) == "all-linear"


def test_a_fresh_adapter_goes_everywhere_in_other_models(make_policy, stand_in):
    for model in (make_policy().model, load("sdar", stand_in("sdar")[0]).model):
        assert not has_experts(model.config) and targets(model) == "all-linear"


def test_attention_by_other_names_is_found():
    block = nn.ModuleDict({"query_key_value": nn.Linear(2, 6), "dense": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
    mlp = nn.ModuleDict({"dense": nn.Linear(2, 2), "gate": nn.Linear(2, 2)})
    model = nn.ModuleList([nn.ModuleDict({"attention": block, "mlp": mlp})])
    assert attention_linears(model) == ["attention.dense", "attention.query_key_value"]


@pytest.mark.parametrize("settled", [False, True], ids=["one weight a layer", "one module an expert"])
def test_ddp_looks_for_weights_without_a_gradient_only_among_separate_experts(make_sft, stand_in, tokenizer, settled):
    """transformers' own classes keep all experts of a layer in one weight; code on the hub has a module for each."""
    policy = load("llada_moe", stand_in("llada_moe")[0]) if settled else mixture(tokenizer)
    assert trains_separate_experts(policy.model) is settled
    trainer = make_sft(policy=policy)
    assert trainer.accelerator.ddp_handler.find_unused_parameters is settled
    policy.model.requires_grad_(False)
    assert not trains_separate_experts(policy.model), "what is frozen needs no gradient"


@pytest.mark.parametrize("given", [True, False])
def test_what_ddp_was_told_is_kept(make_sft, make_grpo, given):
    for trainer in (make_sft(ddp_find_unused_parameters=given), make_grpo(ddp_find_unused_parameters=given)):
        assert trainer.accelerator.ddp_handler.find_unused_parameters is given
    assert make_grpo().accelerator.ddp_handler.find_unused_parameters is False


@pytest.mark.parametrize("config", [ImprovedDiffuGRPOConfig, DiffusionSFTConfig, DiffusionDPOConfig])
@pytest.mark.parametrize("value", [0.01, None])
def test_a_loss_of_the_routers_is_refused_by_name(config, value):
    """None is TRL's word for what the model's config says."""
    with pytest.raises(ConfigError, match=rf"training\.router_aux_loss_coef={value}: expected 0: .* its experts"):
        config(router_aux_loss_coef=value)
    assert config().router_aux_loss_coef == 0


@pytest.mark.parametrize("method", ["grpo", "sft"])
@pytest.mark.parametrize("asks", [False, True], ids=["silent", "asking"])
def test_transformers_own_mixture_trains_and_keeps_the_weight_of_its_routers(
    tokenizer, make_sft, grpo_args, splits, tmp_path, method, asks
):
    """Also one whose config asks for the routers' logits, on which TRL adds a loss."""
    policy = mixture(tokenizer, asks)
    if method == "sft":
        trainer = make_sft(policy=policy, max_steps=1)
    else:
        args = grpo_args(max_steps=1)
        trainer = ImprovedDiffuGRPOTrainer(policy, [digit_reward], args, splits["train"], splits["validation"])
    trainer.train()
    assert trainer.state.global_step == 1 and "aux_loss" not in trainer.state.log_history[0]
    assert trainer.model.config.router_aux_loss_coef == 0.25
