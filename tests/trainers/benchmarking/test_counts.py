"""Counted calls and their arithmetic, against torch's own count of floating-point operations and published sizes."""

from collections import Counter

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from trainers.benchmarking.counters import Calls, Pass, watch
from trainers.benchmarking.roofline import COPIED, SIDE, Costs, PeakMeter, Peaks
from trainers.benchmarking.shapes import NOISE, SHAPES, Shape, random_policy, saved_policy, widen
from trainers.settings.options import ConfigError

GROUPED = Shape(32, 48, 2, 4, 2, 300)  # keys and values of two heads shared by four
IDS = torch.arange(3 * 10).view(3, 10)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return random_policy(GROUPED).model


def weights(name):
    model = random_policy(SHAPES[name], device="meta").model
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize(
    ("name", "millions"),
    # published: SmolLM2 134.5M, Llama 3.2 1235.8M, LLaDA 8.02B (2502.09992, table 5); tiny is this project's own
    [("tiny", 2.3), ("135M", 134.5), ("1B", 1235.8), ("LLaDA-8B", 8015.6)],
)
def test_shapes_have_the_published_number_of_weights(name, millions):
    assert weights(name) / 1e6 == pytest.approx(millions, abs=0.05)


def test_llada_costs_what_the_field_says():
    costs = Costs(random_policy(SHAPES["LLaDA-8B"], device="meta").model.config, itemsize=2)
    assert round(costs.flop_per_position / 1e9, 2) == 13.96
    assert round(costs.flop_per_head_row / 1e9, 2) == 1.04


@pytest.mark.parametrize("shape", [SHAPES["tiny"], GROUPED], ids=["tiny", "grouped"])
def test_arithmetic_is_torchs_own_count(shape):
    model = random_policy(shape).model
    model.set_attn_implementation("eager")  # a fused kernel hides its products from torch's counter
    with FlopCounterMode(display=False) as counter, watch(model) as calls, torch.no_grad():
        model(input_ids=IDS)
        model(input_ids=IDS[:1, :4])
    assert Costs(model.config, itemsize=4).flop(calls) == counter.get_total_flops()


def test_whole_and_parted_calls_count_alike(model):
    with watch(model) as whole, torch.no_grad():
        model(input_ids=IDS)
    with watch(model) as parted, torch.no_grad():
        hidden = model.base_model(inputs_embeds=model.get_input_embeddings()(IDS)).last_hidden_state
        model.lm_head(hidden[:, -4:])
        model.lm_head(hidden[0, :3])
    assert (whole.forwards, whole.row_forwards, whole.positions, whole.head_rows) == (1, 3, 30, 30)
    assert (parted.forwards, parted.row_forwards, parted.positions, parted.head_rows) == (1, 3, 30, 3 * 4 + 3)


def test_stored_positions_are_attended_but_not_fed(model):
    cache = DynamicCache()
    with watch(model) as calls, torch.no_grad():
        model(input_ids=IDS[:, :6], past_key_values=cache, use_cache=True)
        model(input_ids=IDS[:, 6:], past_key_values=cache, use_cache=True)
    assert calls.body == Counter({Pass(3, 6, 6): 1, Pass(3, 4, 10): 1})
    assert calls.positions == 30


def test_nothing_is_counted_after_the_watch(model):
    with watch(model) as calls, torch.no_grad():
        model(input_ids=IDS)
    with torch.no_grad():
        model(input_ids=IDS)
    assert calls.forwards == 1


def test_attainable_time_is_that_of_the_scarcer_resource(model):
    costs, calls = (
        Costs(model.config, itemsize=4),
        Calls(Counter({Pass(3, 10, 10): 2}), Counter({7: 2}), Counter({30: 2})),
    )
    compute = costs.attainable(calls, Peaks(1e9, float("inf")))
    traffic = costs.attainable(calls, Peaks(float("inf"), 1e9))
    assert compute == pytest.approx(costs.flop(calls) / 1e9)
    # By hand, in floats: a product (m x k) (k x n) moves mk + kn + mn; attention reads queries, keys and values.
    hidden, inner, queries, keys, positions = 32, 48, 32, 16, 30
    shapes = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    shapes += [(hidden, inner), (hidden, inner), (inner, hidden)]
    layer = sum(positions * k + k * n + positions * n for k, n in shapes) + 3 * 10 * (2 * queries + 2 * keys)
    head = 7 * hidden + hidden * 300 + 7 * 300
    assert traffic == pytest.approx(2 * (2 * layer + head) * 4 / 1e9)
    both = costs.attainable(calls, Peaks(1e9, 1e9))
    assert max(compute, traffic) <= both <= compute + traffic
    # where the last feed-forward module ran on 7 of 30 positions, its products are that much thinner
    calls.last_feed_forward = Counter({7: 2})
    spared = 2 * 23 * sum(2 * k * n for k, n in shapes[4:])
    assert costs.flop(calls) == pytest.approx(compute * 1e9 - spared)
    assert costs.attainable(calls, Peaks(1e9, float("inf"))) == pytest.approx(compute - spared / 1e9)
    less = 2 * 23 * sum(k + n for k, n in shapes[4:]) * 4 / 1e9
    assert costs.attainable(calls, Peaks(float("inf"), 1e9)) == pytest.approx(traffic - less)


def test_peaks_only_rise(monkeypatch):
    monkeypatch.setitem(SIDE, "cpu", 64)
    monkeypatch.setitem(COPIED, "cpu", 4096)
    meter = PeakMeter(torch.device("cpu"), torch.float32)
    meter.measure()
    assert meter.best.flops > 0 and meter.best.bandwidth > 0
    meter.best = Peaks(1e30, 1e30)
    meter.measure()
    assert meter.best == Peaks(1e30, 1e30)


@pytest.mark.parametrize("tied", [False, True])
def test_a_widened_model_keeps_its_logits_and_repeats_the_padding_row(tied):
    torch.manual_seed(0)
    model = random_policy(Shape(32, 48, 2, 4, 2, 300, tied)).model
    with torch.no_grad():
        model.get_output_embeddings().weight[0] = 3 * torch.randn(32)  # row 0 is padding: transformers starts it at 0
        before = model(input_ids=IDS).logits
        widen(model, 400, row=0)
        after = model(input_ids=IDS).logits
        hidden = model.base_model(input_ids=IDS).last_hidden_state
    assert after.size(-1) == model.config.vocab_size == 400
    assert torch.equal(after[..., :300], before)
    # a row's noise has the size of NOISE times the row's; 6 standard deviations
    scale = hidden.norm(dim=-1, keepdim=True) * model.get_output_embeddings().weight[0].square().mean().sqrt()
    distance = (after[..., 300:] - before[..., :1]).abs()
    assert bool((distance <= 6 * NOISE * scale).all()) and float(distance.min()) < float(distance.max())


def test_a_vocabulary_below_the_models_is_refused(model_dir):
    with pytest.raises(ConfigError, match="--vocabulary 5: expected at least the tokenizer's"):
        random_policy(GROUPED, 5)
    with pytest.raises(ConfigError, match="--vocabulary 5: expected at least the model's"):
        saved_policy(str(model_dir), 5)
