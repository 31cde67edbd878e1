"""Shift and mask token show in text that a model knows: a false claim of either is refused."""

from dataclasses import replace

import pytest
from probing import changed, refused

from trainers.models.loading import load_policy
from trainers.models.probes.looking import Examiner
from trainers.models.probes.probing import probed
from trainers.models.tiny import TINY_ASSETS
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError

SHIFTED, MASKED = "model.logit_shift=true, but", "model.logit_shift=false, but"


def test_a_masked_model_that_is_called_shifted_is_refused():
    with pytest.raises(ConfigError, match=f"{SHIFTED}.*set model.logit_shift=false"):
        load_policy(ModelArguments(logit_shift=True))
    load_policy(ModelArguments(logit_shift=True, probe=False))


def test_a_shifted_model_that_is_called_masked_is_refused(shifted):
    assert probed(shifted, Examiner("shifted")).logit_shift
    refused(replace(shifted, logit_shift=False), MASKED, "set model.logit_shift=true")


def test_a_mask_token_that_the_model_does_not_know_is_refused(tmp_path):
    arguments = changed(TINY_ASSETS, tmp_path, mask_token="<other>", more=("<other>",))
    with pytest.raises(ConfigError, match=r"mask token '<other>'.*predicted better behind '\[MASK\]'"):
        load_policy(arguments)
