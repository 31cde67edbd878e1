"""A tracker that is not here is said before any work, whichever it is."""

import pytest
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from trainers.settings import trackers
from trainers.settings.options import ConfigError
from trainers.settings.trackers import TRACKERS, check_trackers


def test_every_tracker_of_transformers_is_known():
    assert set(TRACKERS) == set(INTEGRATION_TO_CALLBACK)


@pytest.mark.parametrize("name", [name for name, (is_there, _) in TRACKERS.items() if not is_there()])
def test_one_that_is_not_here_is_one_line(grpo_args, name):
    with pytest.raises(ConfigError, match=rf"training\.report_to=\['tensorboard', '{name}'\]: {name} is not here"):
        check_trackers(grpo_args(report_to=["tensorboard", name]))


@pytest.mark.parametrize("word", ["all", "none", "tensorboard"])
def test_what_is_here_passes(grpo_args, word):
    check_trackers(grpo_args(report_to=word))


def test_an_unknown_one_is_told_which_there_are(grpo_args):
    with pytest.raises(ConfigError, match=r"training\.report_to=\['wanbd'\]: expected some of azure_ml, .*, wandb"):
        check_trackers(grpo_args(report_to="wanbd"))


def test_one_that_is_installed_passes(grpo_args, monkeypatch):
    monkeypatch.setitem(trackers.TRACKERS, "wandb", (lambda: True, "nothing"))
    check_trackers(grpo_args(report_to="wandb"))
