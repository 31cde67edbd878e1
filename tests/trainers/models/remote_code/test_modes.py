"""A forward that is another function in train mode is run as in eval, and nothing else is."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from zoo.standins import STAND_INS, load

from core.denoisers.attention import block_causal
from trainers.models.probes.modes import WithoutDropout
from trainers.models.probes.probing import probed
from trainers.models.remote_code.modes import mode_readers, run_as_in_eval, run_as_it_is, runs_as_in_eval
from trainers.settings.options import ConfigError


def logits(policy, model=None):
    ids = torch.randint(5, 100, (2, 14), generator=torch.Generator().manual_seed(0))
    visible = block_causal(torch.ones_like(ids[:, :7]), 7, 7, True) if policy.block_length else None
    rows = torch.ones_like(ids, dtype=torch.bool)
    rows[:, 0] = False
    return policy.denoiser(model).logits(ids, visible, rows)


@pytest.mark.parametrize("name", STAND_INS)
def test_every_family_is_the_same_function_in_train_mode(stand_in, name):
    policy = load(name, stand_in(name)[0])
    policy.model.eval()
    expected = logits(policy)
    policy.model.train()
    assert all(module.training for module in policy.model.modules())
    with WithoutDropout():
        assert torch.allclose(logits(policy), expected, atol=1e-4)
    assert all(module.training for module in policy.model.modules())


def test_of_sdar_the_model_and_its_attention_run_as_in_eval_and_no_other(stand_in):
    policy = load("sdar", stand_in("sdar")[0])
    kinds = {type(module).__name__: runs_as_in_eval(type(module)) for module in policy.model.modules()}
    assert {name for name, resting in kinds.items() if resting} == {"SDARForCausalLM", "SDARAttention"}
    inside = []
    policy.model.model.layers[0].mlp.register_forward_hook(lambda module, *_: inside.append(module.training))
    policy.model.train()
    assert logits(policy).requires_grad and inside == [True]


def test_a_model_that_is_loaded_twice_and_probed_again_is_wrapped_once(stand_in):
    policies = [load("sdar", stand_in("sdar")[0]) for _ in range(2)]
    again = probed(policies[0], "sdar")
    assert logits(again).shape == logits(policies[1]).shape
    attention = type(again.model.model.layers[0].self_attn)
    run_as_it_is(attention)
    assert not runs_as_in_eval(attention)
    run_as_in_eval(attention)


def test_a_difference_that_no_mode_explains_is_refused(edited):
    """Its forward does not say that it asks for the mode."""
    asked = "return (2 if (lambda module: module.training)(self) else 1) * self.down_proj("
    directory = edited("llada", "parts.py", "return self.down_proj(", asked)
    with pytest.raises(ConfigError, match="another function in train mode than in eval: other logits, dropout off"):
        load("llada", directory)
    assert load("llada", directory, probe=False).family == "llada"


def test_an_eval_that_lets_no_gradient_through_is_refused(edited):
    frozen = "F.silu(self.gate_proj(hidden)) * self.up_proj(hidden)"
    directory = edited("sdar", "parts.py", frozen, f"({frozen}) * (2 if self.training else 1)")
    text = (directory / "parts.py").read_text()
    detached = "hidden = hidden if self.training else hidden.detach()\n        return self.down_proj(("
    (directory / "parts.py").write_text(text.replace("return self.down_proj((", detached))
    with pytest.raises(ConfigError, match=r"lets no gradient through to model.layers.0.post_attention_layernorm"):
        load("sdar", directory)


def test_dropout_stays_on_in_training(edited):
    """Its classes ask whether they are training too, for what is no other function."""
    directory = edited("sdar", "parts.py", "dropout=0.0):", "dropout=0.5):")
    policy = load("sdar", directory)
    policy.model.train()
    assert torch.equal(logits(policy), logits(policy))  # the attention of SDAR itself runs as in eval
    dropout = nn.Dropout(0.5)
    policy.model.model.norm.register_forward_hook(lambda module, args, output: dropout(output))
    assert not torch.equal(logits(policy), logits(policy))


def test_dropout_of_every_kind_is_off_while_modes_are_compared(make_policy):
    policy = make_policy(layers=2, attention_dropout=0.5)
    policy.model.model.norm.register_forward_hook(lambda *args: nn.functional.dropout(args[2], 0.5))
    policy.model.eval()
    with torch.no_grad():
        expected = logits(replace(policy))
        assert not torch.equal(expected, logits(policy))
        with WithoutDropout():
            found = logits(policy)
            policy.model.train()
            assert torch.equal(found, logits(policy))


def test_what_asks_for_the_mode_is_found_behind_decorators(stand_in):
    model = load("sdar", stand_in("sdar")[0]).model
    names = {kind.__name__ for kind in mode_readers(model)}
    assert {"SDARForCausalLM", "SDARAttention", "SDARModel"} <= names and not names & {"Embedding", "Linear", "MLP"}
