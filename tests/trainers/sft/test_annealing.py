"""SFT that anneals its attention: a causal model at first, a bidirectional one at the end, and resumed in between."""

from dataclasses import replace

import pytest
import torch
from resumes import SAVING, assert_resumes_bit_by_bit

from core.denoisers import AnnealedDenoiser
from core.denoisers.attention import annealed
from trainers.distributed.randomness import generator_at
from trainers.models.policy import Calling, Policy
from trainers.settings.options import ConfigError

STEPS = 4
KERNELS = ("sdpa", "eager")


def batch_of(trainer):
    """A batch whose prompts differ in length, so that some are padded."""
    batch = next(iter(trainer.get_train_dataloader()))
    assert not bool(batch["prompt_mask"].all())
    return batch


def loss_at(trainer, batch, step, training=True):
    trainer.model.train(training)
    trainer.state.global_step = step
    return trainer.compute_loss(trainer.model, batch)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_first_step_is_that_of_a_causal_model(make_policy, make_sft, kernel):
    """Logits at every position that is not padding, to the rounding of another kernel on logits of size 10."""
    policies = [make_policy(layers=2, causal=causal, attn_implementation=kernel) for causal in (False, True)]
    ids = torch.randint(4, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    ours, causal = (policy.denoiser() for policy in policies)
    with torch.no_grad():
        rule = annealed(9, 0.0, torch.Generator())
        found = AnnealedDenoiser(ours, rule).logits(ids, mask, mask.bool())
        assert torch.allclose(found, causal.logits(ids, mask, mask.bool()), atol=1e-5)
        assert not torch.allclose(found, ours.logits(ids, mask, mask.bool()), atol=1e-2)

    batch = batch_of(make_sft())
    annealing, plain = make_sft(policy=policies[0], attention_annealing_steps=STEPS), make_sft(policy=policies[1])
    assert loss_at(annealing, batch, 0).item() == pytest.approx(loss_at(plain, batch, 0).item(), rel=1e-6)


@pytest.mark.parametrize("step", [STEPS, STEPS + 3])
def test_from_the_last_step_on_nothing_is_hidden(make_policy, make_sft, step):
    policy = make_policy(layers=2)
    annealing, plain = make_sft(policy=policy, attention_annealing_steps=STEPS), make_sft(policy=policy)
    batch = batch_of(plain)
    assert torch.equal(loss_at(annealing, batch, step), loss_at(plain, batch, step))
    assert not torch.equal(loss_at(annealing, batch, 1), loss_at(plain, batch, 1))


def test_evaluation_sees_everything_at_every_step(make_policy, make_sft):
    policy = make_policy(layers=2)
    annealing, plain = make_sft(policy=policy, attention_annealing_steps=STEPS), make_sft(policy=policy)
    assert annealing.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]


def test_each_micro_step_draws_its_own_rule_from_its_place_in_the_run(make_sft, monkeypatch):
    trainer = make_sft(attention_annealing_steps=STEPS, max_steps=3, gradient_accumulation_steps=2)
    drawn = []

    def watch(length, visible, generator):
        drawn.append((visible, annealed(length, visible, generator)))
        return drawn[-1][1]

    monkeypatch.setattr("trainers.sft.annealing.annealed", watch)
    trainer.train()
    assert [visible for visible, _ in drawn] == [0, 0, 0.25, 0.25, 0.5, 0.5]
    assert not torch.equal(drawn[2][1], drawn[3][1])
    for number, (visible, rule) in enumerate(drawn):
        place = (0, "train", number // 2, number % 2, 0, "attention_annealing")
        assert torch.equal(rule, annealed(len(rule), visible, generator_at(*place)))
    shares = [entry["future_visible"] for entry in trainer.state.log_history if "future_visible" in entry]
    assert shares == [0, 0.25, 0.5]


def test_killed_run_resumes_bit_by_bit_while_it_anneals(make_sft, tmp_path):
    def make(path):
        options = {"attention_annealing_steps": 8, "gradient_accumulation_steps": 2, **SAVING}
        return make_sft(output_dir=str(path), max_steps=5, **options)

    assert_resumes_bit_by_bit(make, tmp_path, 3, "substep")


def test_groups_of_states_have_the_gradients_of_one_forward(make_policy, make_sft):
    """Sums of a few hundred float32 terms in another order."""
    gradients = []
    for states in (None, 3):
        options = {"attention_annealing_steps": STEPS, "num_draws": 4, "states_per_forward": states}
        trainer = make_sft(policy=make_policy(layers=2), **options)
        loss_at(trainer, batch_of(trainer), 2).backward()
        gradients.append({name: value.grad for name, value in trainer.model.named_parameters()})
    whole, parts = gradients
    for name, value in whole.items():
        assert torch.allclose(parts[name], value, rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_annealing_steps": -1}, "training.attention_annealing_steps=-1: expected at least 0"),
        ({"prediction_type": "flow_matching"}, "only with loss.prediction_type=masked"),
        (
            {"scheduled_sampling_max_step_offset": 2, "scheduled_sampling_probability": 0.5},
            "only with loss.prediction_type=masked and no scheduled sampling",
        ),
        ({"memory_budget_gib": 1.0}, "only with loss.memory_budget_gib unset"),
    ],
    ids=str,
)
def test_what_cannot_be_annealed_is_refused_by_its_options(make_sft, options, message):
    with pytest.raises(ConfigError, match=r"training.attention_annealing_steps=-?\d") as error:
        make_sft(**({"attention_annealing_steps": STEPS} | options))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"block_length": 5}, "model.attention=block_causal"),
        (
            {"calling": Calling(attention="flash_attention_2")},
            "attn_implementation='flash_attention_2', or one of",
        ),
        ({"calling": Calling(padding="none")}, "ignores attention masks"),
        ({"calling": Calling(counts_padding=True)}, "absolute positions"),
    ],
    ids=str,
)
def test_what_cannot_be_annealed_is_refused_by_its_model(make_policy, make_sft, changes, expected):
    policy: Policy = replace(make_policy(), **changes)
    with pytest.raises(ConfigError, match=r"training\.attention_annealing_steps=4: expected 0 for") as error:
        make_sft(policy=policy, attention_annealing_steps=STEPS)
    assert expected in str(error.value)
