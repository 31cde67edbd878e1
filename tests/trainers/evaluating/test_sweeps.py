"""A sweep is the product of its values; what no run can use, or what sampling does not read, is refused."""

import pytest
import yaml

from trainers.evaluating.identity import settings
from trainers.evaluating.sweeps import rows
from trainers.settings.options import ConfigError


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"generation": {"steps": 8, "max_completion_length": 16}, "trainer": "sft"}))
    return str(path)


def test_rows_are_every_combination_in_order(config):
    found = rows([config], [["generation.steps", "4", "8"], ["selection", "top1", "entropy"]])
    assert [tuple(row.changes.values()) for row in found] == [(4, "top1"), (4, "entropy"), (8, "top1"), (8, "entropy")]
    assert all(list(row.changes) == ["generation.steps", "generation.selection"] for row in found)
    trainings = [row.config.training for row in found]
    assert [(args.max_timesteps, args.selection) for args in trainings] == [tuple(r.changes.values()) for r in found]


def test_without_a_sweep_there_is_one_row(config):
    (row,) = rows([config, "--generation.steps", "4"], [])
    assert row.changes == {} and row.config.training.max_timesteps == 4


def test_a_schedule_and_an_unset_value_can_be_swept(config):
    found = rows([config], [["--loss.alpha-schedule", "linear", "cosine"], ["block_length", "4", "null"]])
    assert [row.changes["generation.block_length"] for row in found] == [4, None, 4, None]
    assert [row.config.training.alpha_schedule for row in found] == ["linear"] * 2 + ["cosine"] * 2


@pytest.mark.parametrize(
    ("argv", "sweeps", "fragments"),
    [
        ([], [["generation.steps"]], ["--sweep generation.steps", "one or more values"]),
        ([], [["block_length", "2"], ["block_length", "4"]], ["block_length", "swept twice"]),
        ([], [["generation.steps", "2"], ["max_timesteps", "4"]], ["generation.steps", "max_timesteps"]),
        ([], [["generation.steps", "2", "2"]], ["twice", "2"]),
        ([], [["task.seed", "1", "2"]], ["--sweep task.seed", "section generation"]),
        ([], [["model.dtype", "float32"]], ["--sweep model.dtype", "section generation"]),
        ([], [["generation.batch_size", "1", "2"]], ["--sweep generation.batch_size", "section generation"]),
        ([], [["generation.stepps", "2"]], ["generation.stepps", "generation.steps"]),
        ([], [["generation.selection", "top1", "best"]], ["generation.selection='best'", "top1"]),
        ([], [["generation.block_length", "4", "5"]], ["generation.block_length=5", "divisor"]),
        # either value fits, not every pair
        ([], [["generation.steps", "8", "6"], ["block_length", "8", "4"]], ["generation.block_length=4", "steps=6"]),
        (["--generation.steps", "9"], [["generation.steps", "2"]], ["generation.steps", "set twice"]),
    ],
)
def test_bad_sweeps_are_refused_by_name(config, argv, sweeps, fragments):
    with pytest.raises(ConfigError) as error:
        rows([config, *argv], sweeps)
    assert all(fragment in str(error.value) for fragment in fragments), error.value


def test_settings_are_what_can_show_in_an_outcome(config):
    def of(*argv):
        return settings(rows([config, *argv], [])[0].config)

    base = of()
    for quiet in (("--generation.batch_size", "3"), ("--generation.compile", "true"), ("--max_steps", "9"),
                  ("--task.test_size", "9"), ("--model.name_or_path", "elsewhere")):  # fmt: skip
        assert of(*quiet) == base, quiet
    for loud in (("--generation.steps", "4"), ("--loss.alpha_schedule", "linear"), ("--seed", "3"),
                 ("--generation.temperature", "0.5"), ("--model.dtype", "bfloat16"), ("--selection", "margin"),
                 ("--task.name", "countdown")):  # fmt: skip
        assert of(*loud) != base, loud
