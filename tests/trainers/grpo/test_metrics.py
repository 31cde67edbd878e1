"""The meter writes what it is told, where TRL's log finds it, without a trainer."""

import math
from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from torch import nn

from core.scoring import Draws, LikelihoodEstimate
from core.scoring.share import WHOLE
from core.trajectory import Trajectory
from trainers.grpo.diagnostics import GRADIENT_SIGNAL, LIKELIHOOD_GAP, RATIO_ESS, ROLLOUT_MISMATCH
from trainers.grpo.metrics import Meter
from trainers.grpo.position import Cadence, Position
from trainers.grpo.states import PickedStates

HERE = Position(seed=0, training=True, index=0, update=0)
CADENCE = Cadence(accumulated=2, micro_batches=4, iterations=2)


class At:
    """A position that a test moves."""

    def __init__(self):
        self.now = HERE

    def __call__(self):
        return self.now

    def move(self, **change):
        self.now = replace(self.now, **change)


@pytest.fixture
def at():
    return At()


@pytest.fixture
def metrics():
    return {"train": defaultdict(list), "eval": defaultdict(list)}


@pytest.fixture
def meter(metrics, at):
    return Meter(metrics, at, CADENCE, WHOLE, sequences=8, walks=False)


def trajectory(lengths=(2, 3), forwards=(4, 6)):
    ids, flags = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.bool)
    rest = torch.tensor(lengths), flags, torch.tensor(forwards)
    return Trajectory(ids, ids, ids.float(), *rest, exact=True, eos_id=None)


def states(rolled_out=None, old=None):
    """Two rows of three tokens, one state each that scores everything."""
    whole = torch.ones(2, 1, 3, dtype=torch.bool)
    draws = Draws(whole, whole, whole, torch.ones(2, 1), torch.ones(2), rolled_out=rolled_out)
    text = torch.tensor([[True, True, True], [True, True, False]])
    commits = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -1.0, -9.0]])
    return PickedStates(torch.zeros(2, 3, dtype=torch.int64), commits, draws, text, torch.ones(2), old)


def estimate(logps):
    bound, weight = -logps.sum(dim=1), torch.ones_like(logps)
    return LikelihoodEstimate(bound, -logps, torch.tensor([3.0, 4.0]), logps, weight, weight, logps)


LOGPS = torch.tensor([[-1.0, -2.0, -3.5], [-1.0, -2.0, -1.0]])


def test_a_rollout_counts_in_training_alone_and_is_logged_in_its_mode(meter, metrics, at):
    meter.rolled_out(trajectory(), 0.5)
    assert (meter.tokens, meter.evaluations) == (5, 10)
    assert metrics["train"] == {"rollout/tokens_per_second": [10.0], "rollout/forwards_per_completion": [5.0]}
    at.move(training=False)
    meter.rolled_out(trajectory((1, 1), (1, 1)), 0.5)
    meter.evaluated(7)
    assert (meter.tokens, meter.evaluations) == (5, 10)
    assert metrics["eval"]["rollout/tokens_per_second"] == [4.0]
    at.move(training=True)
    meter.evaluated(7)
    assert meter.evaluations == 17


def test_bound_and_error_are_those_of_the_sequences_left_alone(meter, metrics):
    meter.scored(estimate(LOGPS), LOGPS, states())
    assert metrics["train"]["nelbo"] == [pytest.approx((6.5 + 4.0) / 2)]
    assert metrics["train"]["nelbo_standard_error"] == [pytest.approx(5 / 2)]
    meter.scored(estimate(LOGPS), LOGPS, states(rolled_out=torch.tensor([True, False])))
    assert metrics["train"]["nelbo"][1] == 4.0 and metrics["train"]["nelbo_standard_error"][1] == 4.0
    assert metrics["train"]["scheduled_sampling/nelbo_rolled_out"] == [6.5]


def test_ratios_are_measured_on_the_text_and_only_where_there_is_an_old_policy(meter, metrics):
    meter.scored(estimate(LOGPS), LOGPS, states())
    assert "ratio_log_std" not in metrics["train"]
    old = LOGPS.clone()
    old[0, 0] += 2.0
    old[1, 2] += 100.0  # not part of the text
    meter.scored(estimate(LOGPS), LOGPS, states(old=old))
    assert metrics["train"]["ratio_log_max"] == [pytest.approx(2.0)]
    assert metrics["train"]["ratio_log_std"] == [pytest.approx(math.sqrt(4 / 5))]
    ratios = torch.tensor([math.exp(-2.0), 1, 1, 1, 1])
    assert metrics["train"][RATIO_ESS] == [pytest.approx((ratios.sum() ** 2 / (5 * (ratios**2).sum())).item())]


@pytest.mark.parametrize(("exact", "name"), [(True, ROLLOUT_MISMATCH), (False, LIKELIHOOD_GAP)])
def test_the_samplers_record_is_compared_until_the_first_update(meter, metrics, at, exact, name):
    meter.stored(exact)
    for index in range(4):
        at.move(index=index)
        meter.scored(estimate(LOGPS), LOGPS, states())
    assert metrics["train"][name] == [pytest.approx((0.5 + 1.0) / 5)] * 2
    at.move(training=False, index=0)
    meter.scored(estimate(LOGPS), LOGPS, states())
    assert name not in metrics["eval"]


def test_times_are_logged_once_an_update(meter, metrics, at, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("trainers.grpo.metrics.time.perf_counter", lambda: now[0])
    meter.rolled_out(trajectory(), 3.0)
    for index in (1, 2):  # as TRL counts: the step that was made is behind it
        with meter.scoring():
            now[0] += 1.0
        meter.loss_done()
        now[0] += 0.25
        at.move(index=index)
        assert "time/scoring" not in metrics["train"]
        meter.micro_step_done(2, None)
    parts = {key: value for key, value in metrics["train"].items() if key.startswith("time/")}
    assert parts == {"time/rollout": [3.0], "time/scoring": [2.0], "time/backward": [0.5]}
    assert metrics["train"]["loss/tokens_per_second"] == [5 * 2 / 4 / 2.5]


def test_walks_are_a_part_of_the_time_only_where_there_are_any(metrics, at):
    meter = Meter(metrics, at, CADENCE, WHOLE, sequences=8, walks=True)
    meter.walked({"scheduled_sampling/forwards": 3.0}, 0.5)
    with meter.scoring():
        pass
    meter.loss_done()
    meter.micro_step_done(1, None)
    assert metrics["train"]["time/scheduled_sampling"] == [0.5]
    assert metrics["train"]["scheduled_sampling/forwards"] == [3.0]


def test_the_gradient_is_looked_at_when_the_meter_is_given_an_optimizer(meter, metrics):
    weight = nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.Adam([weight])
    for _ in range(3):
        weight.grad = torch.ones(4)
        optimizer.step()
    for given in (None, optimizer):
        meter.rolled_out(trajectory(), 1.0)
        with meter.scoring():
            pass
        meter.loss_done()
        meter.micro_step_done(1, given)
    assert metrics["train"][GRADIENT_SIGNAL] == [pytest.approx(1.0)]
