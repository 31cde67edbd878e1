"""A group learns only where its rewards differ: the training split can be cut down to such problems by a record."""

import json

import pytest
from datasets import Dataset

from trainers.evaluating.identity import data_hash
from trainers.evaluating.record import FORMAT
from trainers.evaluating.solved import sometimes_solved
from trainers.experiment import load_task
from trainers.settings.config import parse
from trainers.settings.options import ConfigError
from trainers.settings.task import TaskArguments


def problems(count, first="problem"):
    names = [f"{first} {i}" for i in range(count)]
    return Dataset.from_dict({"prompt": names, "answer": ["1"] * count, "cluster": names, "completion": names})


def write(path, train, strict, lenient=None, **changes):
    """A record of the first ``len(strict[0])`` problems, as evaluate.py writes it."""
    count = len(strict[0])
    outcomes = {"sampled": {"strict": strict, "lenient": lenient or strict}}
    record = {
        "format": FORMAT,
        "split": "train",
        "problems": count,
        "data": data_hash(train.select(range(count))),
        "repeats": len(strict),
        "rows": [{"outcomes": outcomes}],
    }
    path.write_text(json.dumps(record | changes))
    return path


def test_problems_that_some_samples_solve_are_kept_in_order(tmp_path):
    train = problems(6)
    path = write(tmp_path / "r.json", train, ["01010", "01100", "01010"], lenient=["11111"] * 3)
    # never, always, once, twice, never; the sixth was not tried
    assert sometimes_solved(train, path)["prompt"] == ["problem 2", "problem 3"]


@pytest.mark.parametrize(
    ("strict", "changes", "message"),
    [
        (["01"], {}, "at least 2 a problem"),
        (["01", "01"], {}, "none of its 2 problems was solved by some samples"),
        (["01", "10"], {"rows": []}, "a record of one row"),
        (["01", "10"], {"rows": [{"outcomes": {"greedy": {}}}]}, "with sampled completions"),
        (["01", "10"], {"data": "0" * 64}, "not the first of this training split"),
        (["01", "10"], {"problems": 9}, "it is of 9 train problems that are not the first"),
        (["01", "10"], {"format": 0}, "expected a record of scripts/evaluate.py"),
    ],
)
def test_other_records_are_refused_by_name(tmp_path, strict, changes, message):
    train = problems(4)
    path = write(tmp_path / "r.json", train, strict, **changes)
    with pytest.raises(ConfigError, match=message) as error:
        sometimes_solved(train, path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_record_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.json: No such file"):
        sometimes_solved(problems(2), tmp_path / "none.json")


def test_the_option_cuts_the_training_split_alone(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("trainer: grpo\ntask: {train_size: 8, validation_size: 4, test_size: 4}\n")
    _, whole = load_task(parse([str(config)]).task)
    path = write(tmp_path / "r.json", whole["train"], ["0110", "0100"])
    _, cut = load_task(parse([str(config), "--task.sometimes_solved", str(path)]).task)
    assert cut["train"]["prompt"] == [whole["train"][2]["prompt"]]
    for split in ("validation", "test"):
        assert cut[split]["prompt"] == whole[split]["prompt"]
    assert TaskArguments().sometimes_solved is None
