"""Activations that are computed again rather than kept: the same loss and gradients from less memory, in every family;
and training in bfloat16."""

import math

import pytest
import torch
from transformers.modeling_layers import GradientCheckpointingLayer
from watching import LORA
from zoo.standins import STAND_INS, build

from trainers.models.activations import checkpoint_activations
from trainers.models.adapters import lora_config
from trainers.models.loading import load_policy
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError
from trainers.sft.trainer import DiffusionSFTTrainer

NATIVE = ("llada", "llada_configured")  # whose switch is not transformers'


@pytest.fixture(scope="module")
def written(tokenizer, tmp_path_factory):
    """name -> the directory of a stand-in, written once."""
    known = {}

    def write(name):
        if name not in known:
            known[name], _ = build(name, tokenizer, tmp_path_factory.mktemp(name))
        return known[name]

    return write


class Seen:
    """What one training step of a trainer does: its loss, its gradients, the bytes that it keeps for backward."""

    def __init__(self, trainer):
        self.trainer, self.loss, self.gradients, self.kept = trainer, None, {}, 0
        compute, clip = trainer.compute_loss, trainer.accelerator.clip_grad_norm_
        weights = {weight.data_ptr() for weight in trainer.model.parameters()}

        def pack(tensor):
            if tensor.data_ptr() not in weights:
                self.kept += tensor.numel() * tensor.element_size()
            return tensor

        def compute_loss(*args, **kwargs):
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                loss = compute(*args, **kwargs)
            self.loss = loss.detach()
            return loss

        def look(*args, **kwargs):
            for name, weight in trainer.model.named_parameters():
                if weight.grad is not None:
                    self.gradients[name] = weight.grad.clone()
            return clip(*args, **kwargs)

        trainer.compute_loss, trainer.accelerator.clip_grad_norm_ = compute_loss, look
        trainer.train()


def spread(completions, **kwargs):
    return [float(sum(map(ord, text)) % 7) for text in completions]


@pytest.fixture
def step(written, make_grpo, make_sft, splits):
    """One step on a stand-in, by one of the trainers, with or without an adapter."""

    def make(name, trainer, adapter, checkpointing):
        kind = STAND_INS[name]
        told = ModelArguments(str(written(name)), use_peft=adapter, lora_r=2, **kind.arguments)
        policy = load_policy(told, block_length=kind.block_length)
        torch.manual_seed(0)  # of a fresh adapter
        options = {
            "policy": policy,
            "gradient_checkpointing": checkpointing,
            "max_steps": 1,
            "max_timesteps": 8,
            "block_length": kind.block_length,
        }
        config = lora_config(told, policy.model)
        if trainer == "grpo":
            return Seen(make_grpo(peft_config=config, reward=spread, **options))
        plain = make_sft(**options | {"max_completion_length": 21, "gradient_checkpointing": False})
        plain.args.gradient_checkpointing = plain.args.activation_checkpointing = checkpointing
        return Seen(DiffusionSFTTrainer(policy, plain.args, splits["train"], peft_config=config))

    return make


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize(
    ("name", "trainer"), [("llada", "grpo"), ("llada", "sft"), ("llama", "grpo"), ("llama", "sft"), ("dream", "grpo")]
)
def test_checkpointing_keeps_loss_and_gradients_and_fewer_activations(step, name, trainer, adapter):
    kept, again = (step(name, trainer, adapter, checkpointing) for checkpointing in (False, True))
    assert torch.equal(kept.loss, again.loss)
    assert kept.gradients.keys() == again.gradients.keys() and kept.gradients
    for key, gradient in kept.gradients.items():
        torch.testing.assert_close(again.gradients[key], gradient, rtol=1e-5, atol=1e-7)
    moving = [gradient for key, gradient in again.gradients.items() if not adapter or "lora_B" in key]
    assert sum(bool(gradient.abs().sum() > 0) for gradient in moving) > len(moving) / 2
    if adapter:
        assert all("lora_" in key for key in again.gradients)
    assert again.kept < 0.25 * kept.kept


@pytest.mark.parametrize("name", STAND_INS)
def test_every_family_can_be_checkpointed(step, name):
    """By transformers' switch or its own; where there is neither, one line says so before any work."""
    try:
        seen = step(name, "grpo", True, True)
    except ConfigError as error:
        assert name == "llada_moe" and "training.gradient_checkpointing=True" in str(error)
        return
    assert math.isfinite(seen.loss) and seen.gradients
    assert seen.trainer.args.gradient_checkpointing == (name not in NATIVE)


def test_family_without_a_switch_is_refused_by_name(written, grpo_args, monkeypatch):
    policy = load_policy(ModelArguments(str(written("llama")), **STAND_INS["llama"].arguments))
    monkeypatch.setattr(type(policy.model), "supports_gradient_checkpointing", False)
    args = grpo_args(gradient_checkpointing=True)
    with pytest.raises(
        ConfigError, match=r"training\.gradient_checkpointing=True: LlamaForCausalLM has no activation"
    ):
        checkpoint_activations(policy, args)
    args.gradient_checkpointing = False
    checkpoint_activations(policy, args)


def test_switch_of_a_family_that_is_not_in_the_code_is_refused(written, grpo_args):
    policy = load_policy(ModelArguments(str(written("llada")), **STAND_INS["llada"].arguments))
    inner = policy.model.model
    inner.__class__ = type("Other", (torch.nn.Module,), {})
    with pytest.raises(ConfigError, match="the switch of family llada is not in this model's code"):
        checkpoint_activations(policy, grpo_args(gradient_checkpointing=True))


# --- bfloat16 -----------------------------------------------------------------------------------------------------


BFLOAT16 = [{"dtype": "bfloat16"}, {"bf16": True}, {"dtype": "bfloat16", "bf16": True}]


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("options", BFLOAT16, ids=str)
def test_ratio_is_one_before_the_first_update_in_bfloat16(model_dir, make_watching, options, adapter):
    dtype, bf16 = options.get("dtype", "float32"), options.get("bf16", False)
    policy = load_policy(ModelArguments(str(model_dir), dtype=dtype))
    trainer = make_watching(
        policy=policy,
        peft_config=adapter,
        reward=spread,
        max_steps=3,
        num_iterations=3,
        beta=0.1,
        bf16=bf16,
        reuse_commit_logps=False,  # what the sampler recorded is rounded in another order
    )
    trainer.train()
    log = trainer.state.log_history[:-1]
    assert trainer.micro_batches[0]["current"].dtype == torch.float32
    assert log[0]["ratio_log_max"] == log[0]["kl"] == 0.0 < log[2]["ratio_log_max"]
    assert all(math.isfinite(entry[key]) for entry in log for key in ("loss", "grad_norm", "nelbo", "kl"))
    frozen = {weight.dtype for name, weight in trainer.model.named_parameters() if "lora_" not in name}
    assert frozen == {getattr(torch, dtype)}


@pytest.mark.parametrize("options", BFLOAT16, ids=str)
def test_sft_in_bfloat16_stays_close_to_float32(model_dir, make_sft, options):
    def losses(dtype="float32", bf16=False):
        policy = load_policy(ModelArguments(str(model_dir), dtype=dtype))
        trainer = make_sft(policy=policy, max_steps=3, bf16=bf16, learning_rate=1e-3)
        trainer.train()
        return torch.tensor([entry["loss"] for entry in trainer.state.log_history[:-1]])

    found, expected = losses(**options), losses()
    assert found.isfinite().all() and not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0)  # 8 bits of a product: 2^-8 each


def test_transformers_that_checkpoint_the_hooks_too_are_refused(model_dir, grpo_args, monkeypatch):
    """Up to 5.22 a layer was called again with its hooks, where later versions call its forward."""
    policy = load_policy(ModelArguments(str(model_dir)))
    args = grpo_args(gradient_checkpointing=True)
    checkpoint_activations(policy, args)
    monkeypatch.setattr(GradientCheckpointingLayer, "__call__", lambda self: None)
    with pytest.raises(ConfigError, match=r"gradient_checkpointing=True: needs transformers 5\.23 or later"):
        checkpoint_activations(policy, args)
