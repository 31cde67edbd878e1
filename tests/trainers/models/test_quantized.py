"""4-bit weights, as far as they can be tested without CUDA: refusals, what is asked for, how they are scored."""

import pytest
import torch
from peft import get_peft_model
from torch import nn

import trainers.models.loading
import trainers.settings.model
from core.denoisers import ModelDenoiser
from core.denoisers.projection import project
from trainers.models.adapters import lora_config
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError

QUANTIZED = {"load_in_4bit": True, "use_peft": True}


@pytest.fixture
def cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)


@pytest.fixture
def bitsandbytes(monkeypatch):
    monkeypatch.setattr(trainers.settings.model, "is_bitsandbytes_available", lambda: True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_4_bit_without_cuda_is_refused():
    with pytest.raises(ConfigError, match=r"model\.load_in_4bit=True: expected false: bitsandbytes needs CUDA"):
        ModelArguments(**QUANTIZED)


def test_4_bit_without_its_package_names_what_to_install(cuda, monkeypatch):
    monkeypatch.setattr(trainers.settings.model, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(ConfigError, match=r"model\.load_in_4bit=True: needs the package bitsandbytes: pip install"):
        ModelArguments(**QUANTIZED)


def test_4_bit_weights_are_not_trained(cuda, bitsandbytes):
    with pytest.raises(ConfigError, match=r"model\.load_in_4bit=True: only with model\.use_peft=true"):
        ModelArguments(load_in_4bit=True)


def test_nf4_with_double_quantisation_is_asked_for_on_the_own_gpu(cuda, bitsandbytes, model_dir, monkeypatch):
    asked = {}

    def from_pretrained(path, **kwargs):
        asked.update(kwargs)
        raise OSError("enough")

    monkeypatch.setattr(trainers.models.loading.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    arguments = ModelArguments(model_name_or_path=str(model_dir), dtype="bfloat16", **QUANTIZED)
    with pytest.raises(ConfigError, match="enough"):
        trainers.models.loading.load_policy(arguments)
    quantization = asked["quantization_config"]
    assert quantization.load_in_4bit and quantization.bnb_4bit_use_double_quant
    assert (quantization.bnb_4bit_quant_type, quantization.bnb_4bit_compute_dtype) == ("nf4", torch.bfloat16)
    assert (asked["device_map"], asked["dtype"], asked["use_safetensors"]) == ({"": 3}, torch.bfloat16, True)


def test_weights_are_not_quantised_unless_asked_for(model_dir, monkeypatch):
    asked = {}
    load = trainers.models.loading.AutoModelForCausalLM.from_pretrained

    def from_pretrained(path, **kwargs):
        asked.update(kwargs)
        return load(path, **kwargs)

    monkeypatch.setattr(trainers.models.loading.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    policy = trainers.models.loading.load_policy(ModelArguments(model_name_or_path=str(model_dir), use_peft=True))
    assert not {"quantization_config", "device_map"} & set(asked) and not policy.quantised


class Coarse(nn.Linear):
    """As bitsandbytes' Linear4bit is: a linear layer whose ``weight`` is not what it multiplies by."""

    def forward(self, hidden):
        return nn.functional.linear(hidden, self.dequantised().to(hidden.dtype))

    def dequantised(self):
        return (self.weight.detach() * 8).round() / 8


def coarse(features=16, tokens=40):
    noise = torch.Generator().manual_seed(0)
    head = Coarse(features, tokens, bias=False).requires_grad_(False)
    head.weight.copy_(torch.randn(tokens, features, generator=noise))
    hidden = torch.randn(9, features, generator=noise, requires_grad=True)
    return head, hidden, torch.randint(1, tokens, (9,), generator=noise)


def test_quantised_head_is_scored_through_its_own_forward():
    """Value and gradient are those of the weights that it multiplies by, in chunks, forwards and backwards."""
    head, hidden, targets = coarse()
    project(head.forward, [], hidden, targets, (slice(0, 1),), 0.7, chunk_rows=4)[:, 0].sum().backward()
    found, hidden.grad = hidden.grad, None
    logits = hidden @ head.dequantised().T / 0.7
    logits[:, 0] = -torch.inf
    logits.log_softmax(dim=1).gather(1, targets[:, None]).sum().backward()
    torch.testing.assert_close(found, hidden.grad)
    wrong = torch.autograd.grad((hidden @ head.weight.T).log_softmax(dim=1).gather(1, targets[:, None]).sum(), hidden)[
        0
    ]
    assert (found - wrong).abs().max() > 0.05, "the stored weights would give something else"


def test_adapter_on_quantised_layers_is_scored_and_trained(make_policy):
    """The whole model on coarse linear layers, its head too: adapters get gradients, what is beneath none."""
    policy = make_policy(layers=2)
    for module in policy.model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Coarse
    config = lora_config(ModelArguments(use_peft=True, lora_r=2), policy.model)
    model = get_peft_model(policy.model, config)
    ids = torch.randint(3, 60, (2, 8), generator=torch.Generator().manual_seed(0))
    rows = torch.zeros_like(ids, dtype=torch.bool)
    rows[:, 4:] = True
    logps, _ = policy.denoiser(model).token_logps(ids, None, rows, ids[rows], 1.0)
    whole, _ = ModelDenoiser(model, policy.mask_id).token_logps(ids, None, rows, ids[rows], 1.0)
    torch.testing.assert_close(logps, whole)
    logps.sum().backward()
    trained = [(name, weight.grad) for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained and all("lora_" in name and gradient is not None for name, gradient in trained)
    assert all(gradient.abs().sum() > 0 for name, gradient in trained if "lora_B" in name)
