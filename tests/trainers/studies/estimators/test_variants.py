"""Every estimator is compared in every setting, at numbers of draws that it has."""

import pytest
from comparing import LENGTH

from core.likelihoods import ESTIMATORS
from trainers.settings.options import ConfigError
from trainers.studies.estimators.variants import SETTINGS, variants


def test_every_estimator_is_compared_in_every_setting(bench):
    found = variants(list(ESTIMATORS), [1, 2, 8], bench.generator)
    assert {variant.name for variant in found} == set(ESTIMATORS)
    assert len({variant.label for variant in found}) == len(found)
    for name, settings in SETTINGS.items():
        assert {" ".join(one.values()) for one in settings} == {v.settings for v in found if v.name == name}
    assert [v.draws for v in found if v.name == "coupled"] == [3, 3]
    assert [v.draws for v in found if v.settings == "rollout all"] == [None]
    with pytest.raises(ConfigError, match="two_step"):
        variants(["two_step"], [1], bench.generator)


def test_replays_are_not_asked_for_more_draws_than_there_are_tokens(bench):
    found = variants(["trajectory_nelbo", "rollout"], [1, 2, 8], bench.generator)
    assert max(v.draws for v in found if v.estimator.source == "rollout" and v.draws) <= LENGTH
