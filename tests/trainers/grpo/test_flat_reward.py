"""A run whose first rollouts have no signal is told once, with what to change."""

import logging
import re
from dataclasses import fields

import pytest
from transformers import TrainerControl, TrainerState

from trainers.grpo.flat_reward import ALIKE, CHANGE, ENOUGH, LOOK, NO_SIGNAL, FlatReward
from trainers.grpo.health import WINDOW, DiagnosticsCallback
from trainers.settings.grpo import ImprovedDiffuGRPOConfig
from trainers.settings.model import ModelArguments
from trainers.settings.options import dotted
from trainers.settings.task import TaskArguments

ZERO = {"reward": 0.0, "rewards/correctness/mean": 0.0, NO_SIGNAL: 1.0}
RIGHT = {"reward": 1.0, "rewards/correctness/mean": 1.0, NO_SIGNAL: 1.0}
CANCELLED = {"reward": 0.0, "rewards/a/mean": 1.0, "rewards/b/mean": 1.0, NO_SIGNAL: 1.0}  # by weights
SIGNAL = {"reward": 0.1, "rewards/correctness/mean": 0.1, NO_SIGNAL: 0.5}


@pytest.fixture
def args(grpo_args):
    return grpo_args()  # two groups a rollout


def findings(args, rows):
    first = FlatReward()
    return [first.look(row, args) for row in rows]


def test_zeros_are_told_once_when_enough_groups_have_them(args):
    found = findings(args, [ZERO] * ENOUGH)
    assert [i for i, text in enumerate(found) if text] == [ENOUGH // 2 - 1]
    assert "every reward has been 0" in found[ENOUGH // 2 - 1]


@pytest.mark.parametrize("row", [RIGHT, CANCELLED])
def test_equal_rewards_that_are_not_zero_are_told_as_such(args, row):
    found = [text for text in findings(args, [row] * ENOUGH) if text]
    assert len(found) == 1 and "rewards are equal" in found[0]


@pytest.mark.parametrize("place", [0, 3, ENOUGH // 2 - 1])
def test_one_group_with_a_signal_is_enough(args, place):
    rows = [ZERO] * (2 * ENOUGH)
    rows[place] = SIGNAL
    assert not any(findings(args, rows))


def test_rows_of_evaluations_do_not_count(args):
    assert not any(findings(args, [{f"eval_{key}": value for key, value in ZERO.items()}] * ENOUGH))


def test_the_general_warning_does_not_repeat_it(args, caplog):
    callback = DiagnosticsCallback()
    with caplog.at_level(logging.WARNING):
        for step in range(4 * WINDOW):
            state = TrainerState(global_step=step, is_world_process_zero=True)
            callback.on_log(args, state, TrainerControl(), logs=dict(ZERO))
    told = [text for text in caplog.messages if "warning: step" in text]
    assert len(told) == 1 and "every reward has been 0" in told[0] and "\n" not in told[0]


def test_the_advice_names_options_that_exist():
    known = {dotted(f) for cls in (ImprovedDiffuGRPOConfig, ModelArguments, TaskArguments) for f in fields(cls)}
    assert set(re.findall(r"`([a-z._]+)[^`]*`", LOOK + CHANGE + ALIKE)) <= known
