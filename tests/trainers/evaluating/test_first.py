"""What a run measured before its first step is there when it is resumed."""

from types import SimpleNamespace

import pytest

from trainers.evaluating.evaluation import Evaluation
from trainers.evaluating.first import FILE, outcomes_before

TRAINER = SimpleNamespace(accelerator=SimpleNamespace(is_main_process=True))
FOUND = {"greedy": Evaluation([True, False], [True, True], ["a", "b"], ["1", "2"], 7.0, 0.5)}
IDENTITY = {"data": "abc", "generation.steps": 7, "generation.block_length": None}


def measured():
    return FOUND


def never():
    raise AssertionError("it was measured before")


def test_a_resumed_run_reads_what_its_first_start_measured(tmp_path):
    assert outcomes_before(TRAINER, tmp_path, IDENTITY, False, measured) == FOUND
    assert outcomes_before(TRAINER, tmp_path, IDENTITY, True, never) == FOUND
    assert outcomes_before(TRAINER, tmp_path, IDENTITY, True, None) == FOUND


def test_a_new_run_measures_anew(tmp_path):
    outcomes_before(TRAINER, tmp_path, IDENTITY, False, measured)
    with pytest.raises(AssertionError):
        outcomes_before(TRAINER, tmp_path, IDENTITY, False, never)


@pytest.mark.parametrize("change", [{"data": "xyz"}, {"generation.steps": 8}])
def test_what_other_problems_or_settings_gave_is_not_read(tmp_path, change):
    outcomes_before(TRAINER, tmp_path, IDENTITY, False, measured)
    with pytest.raises(AssertionError):
        outcomes_before(TRAINER, tmp_path, IDENTITY | change, True, never)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"identity": {"data"'])
def test_a_file_that_is_none_is_measured_again(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    assert outcomes_before(TRAINER, tmp_path, IDENTITY, True, measured) == FOUND


def test_nothing_is_measured_that_is_not_wanted(tmp_path):
    assert outcomes_before(TRAINER, tmp_path, IDENTITY, False, None) is None
    assert outcomes_before(TRAINER, tmp_path, IDENTITY, True, None) is None and not (tmp_path / FILE).exists()
