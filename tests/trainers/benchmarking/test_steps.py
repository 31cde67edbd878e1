"""A timed training step is a training step: its loss is the likelihood's, and it moves what it says it trains."""

import copy

import pytest
import torch

from core.nelbo import TrajectoryNELBOLoss
from trainers.benchmarking.losses import Text, draw_share
from trainers.benchmarking.prompts import random_prompts
from trainers.benchmarking.roofline import COPIED, SIDE, Costs, PeakMeter
from trainers.benchmarking.steps import FULL, LORA, TRAINED, _Step, measure_step

PROMPT, CANVAS, DRAWS, SHARE = 5, 20, 2, 0.3


@pytest.fixture
def policy(make_policy):
    policy = make_policy(seed=1, layers=4)
    policy.model.config.vocab_size = policy.model.get_output_embeddings().out_features
    return policy


@pytest.fixture
def text(policy):
    ids = random_prompts(policy, 3, PROMPT + CANVAS, seed=0)
    return Text(ids[:, :PROMPT], ids[:, PROMPT:])


@pytest.fixture
def peaks(monkeypatch):
    monkeypatch.setitem(SIDE, "cpu", 64)
    monkeypatch.setitem(COPIED, "cpu", 2**16)
    return PeakMeter(torch.device("cpu"), torch.float32)


def measured(policy, text, peaks, trained, checkpointed=False):
    return measure_step(policy, text, trained, checkpointed, DRAWS, SHARE, 2, peaks, repeats=1, seed=0)


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_first_step_has_the_loss_of_the_untouched_model(policy, text, peaks, trained, checkpointed):
    loss = TrajectoryNELBOLoss(num_draws=DRAWS)
    draws = draw_share(text, DRAWS, SHARE, seed=0)
    estimate = loss.score(policy.denoiser(), text.prompt_ids, text.prompt_mask, text.ids, draws)
    expected = estimate.sequence_bound.mean().item()  # an adapter begins as nothing
    row = measured(policy, text, peaks, trained, checkpointed)
    assert row.loss == pytest.approx(expected, rel=1e-5)
    assert (row.tokens, row.positions) == (3 * CANVAS, 3 * DRAWS * (PROMPT + CANVAS))


def test_what_is_trained_moves_and_nothing_else(policy, text, peaks):
    before = copy.deepcopy(policy.model.state_dict())
    row = measured(policy, text, peaks, LORA)
    after = dict(policy.model.named_parameters())  # peft works in place
    for name, weight in after.items():
        if ".lora_" not in name:
            assert torch.equal(weight, before[name.replace(".base_layer", "")]), name
    adapters = [weight for name, weight in after.items() if ".lora_" in name]
    assert row.trainable == sum(weight.numel() for weight in adapters) < row.weights
    assert any(bool(weight.any()) for name, weight in after.items() if "lora_B" in name), "it begins at zero"


def test_all_weights_move(policy, text, peaks):
    before = copy.deepcopy(policy.model.state_dict())
    row = measured(policy, text, peaks, FULL)
    assert row.trainable == row.weights
    moved = [name for name, weight in policy.model.state_dict().items() if not torch.equal(weight, before[name])]
    assert set(moved) == set(before)


def test_checkpointing_keeps_fewer_activations(make_policy, peaks):
    rows = []
    for checkpointed in (False, True):
        policy = make_policy(layers=8)
        ids = random_prompts(policy, 4, 256, seed=0)
        rows.append(measured(policy, Text(ids[:, :128], ids[:, 128:]), peaks, LORA, checkpointed))
    assert rows[1].peak_bytes < 0.5 * rows[0].peak_bytes


def test_arithmetic_is_that_of_the_forward_times_its_passes(policy, text):
    step = _Step(policy, text, draw_share(text, DRAWS, SHARE, seed=0), DRAWS)
    costs = Costs(policy.model.config, itemsize=4)
    positions, length = 3 * DRAWS * (PROMPT + CANVAS), PROMPT + CANVAS
    scored = int(step.draws.scored.sum())
    last = 2 * sum(a * b for a, b in costs.feed_forward)
    forward = positions * (costs.flop_per_position + costs.attention_flop(length)) - (positions - scored) * last
    forward += scored * costs.flop_per_head_row
    assert step.flop(3) == pytest.approx(3 * forward)
