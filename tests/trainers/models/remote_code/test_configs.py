"""Configs that come with a checkpoint's own code have what they had under transformers 4, and save none of it."""

import json

import pytest
from transformers import PretrainedConfig
from zoo.standins import load

from trainers.models.remote_code.configs import DEFAULTS, complete_config, forgiving


def test_a_config_has_the_attributes_of_transformers_4_and_keeps_its_own(tmp_path):
    class Own(PretrainedConfig):
        model_type = "own_for_a_test"
        is_decoder = True

    complete_config(Own)
    config = Own(pad_token_id=3)
    assert config.is_decoder and config.pad_token_id == 3
    assert {name: getattr(config, name) for name in DEFAULTS if name not in ("is_decoder", "pad_token_id")} == {
        name: value for name, value in DEFAULTS.items() if name not in ("is_decoder", "pad_token_id")
    }
    config.save_pretrained(tmp_path)
    assert set(json.loads((tmp_path / "config.json").read_text())) & set(DEFAULTS) == {"pad_token_id"}
    assert not hasattr(PretrainedConfig, "pruned_heads")


def test_settings_of_generation_are_saved_and_checked_as_their_class_does_it(stand_in, tmp_path):
    """Dream's ``validate`` takes ``is_init`` alone; transformers 5 hands it more, when it is loaded and saved."""
    policy = load("dream", stand_in("dream")[0])
    settings = policy.model.generation_config
    assert type(settings).__name__ == "DreamGenerationConfig" and settings.steps == 16
    assert settings.return_dict_in_generate is None  # an attribute that it does not set
    settings.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["steps"] == 16
    settings.steps = 0
    with pytest.raises(ValueError, match="steps: expected at least 1"):
        settings.validate(strict=True)


def test_a_method_is_handed_the_keywords_that_it_takes():
    def few(self, one, two=2):
        return self, one, two

    def all_of_them(self, **kwargs):
        return kwargs

    assert forgiving(few)("own", 1, two=3, three=4) == ("own", 1, 3)
    assert forgiving(all_of_them)("own", three=4) == {"three": 4}
