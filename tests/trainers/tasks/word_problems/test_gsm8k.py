"""The GSM8K task: generated problems are true and disjoint across splits, the verifier decides, bad input is named."""

import json
import os
import re
from pathlib import Path

import datasets
import pytest
from arithmetic_bounds import bounds_of
from paths import DATA

from trainers.tasks import gsm8k
from trainers.tasks.verdicts import Verdict
from trainers.tasks.word_problems.numbers import correctness, format_reward

REAL_DATA = Path(os.environ.get("GSM8K_DIR", DATA / "gsm8k"))
ANNOTATION = re.compile(r"<<(\d+)([-+*/])(\d+)=(\d+)>>")
BOUNDS = [(1, 1, 20), (1, 3, 20), (3, 3, 30), (1, 2, 8)]
SPLITS = ("train", "validation", "test")


def load(**overrides) -> dict[str, datasets.Dataset]:
    sizes = {"train_size": 300, "validation_size": 50, "test_size": 100}
    return gsm8k.load_splits(**({"data_files": None, "dataset_name": None, **sizes, **bounds_of()} | overrides))


def write_jsonl(path: Path, numbers: range) -> str:
    rows = [{"question": f"What is {n}?", "answer": f"It is {n:,}.\n#### {n:,}\n"} for n in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


# --- embedded problems ----------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high", "max_number"), BOUNDS)
def test_reference_completions_are_correct_and_their_annotations_are_true(low, high, max_number):
    splits = load(**bounds_of(low, high, max_number))
    for row in (row for split in splits.values() for row in split):
        steps = ANNOTATION.findall(row["completion"])
        assert low <= len(steps) <= high
        results = [int(result) for *_, result in steps]
        for left, sign, right, result in steps:
            a, b, c = int(left), int(right), int(result)
            assert {"+": a + b == c, "-": a - b == c, "*": a * b == c, "/": a == b * c}[sign]
        assert [int(left) for left, *_ in steps[1:]] == results[:-1], "each step continues from the last result"
        annotations = "".join(f"<<{a}{sign}{b}={c}>>" for a, sign, b, c in steps)
        assert row["completion"] == f"{annotations}\n#### {results[-1]}"
        assert row["answer"] == str(results[-1])
        assert gsm8k.verify(row["completion"], row["answer"]) == Verdict(strict=True, lenient=True)
        assert format_reward([row["completion"]]) == [1.0]


def test_generation_depends_on_the_seed_alone():
    assert load()["test"].to_list() == load()["test"].to_list()
    assert load()["test"].to_list() != load(seed=1)["test"].to_list()
    assert load()["test"].to_list() == load(train_size=5, validation_size=7)["test"].to_list()


def test_default_sizes():
    splits = load(train_size=None, validation_size=None, test_size=None)
    assert [splits[split].num_rows for split in SPLITS] == [8192, 512, 1024]
    assert splits["train"].column_names == ["prompt", "completion", "answer", "cluster"]
    assert splits["train"][0]["prompt"].endswith("?\nAnswer:")


def test_unreachable_test_size_is_an_error_that_names_what_is_possible():
    with pytest.raises(ValueError, match=r"task\.test_size = 100000: only about \d+ distinct questions") as raised:
        load(test_size=100_000, max_number=8)
    assert "\n" not in str(raised.value)


# --- real data ------------------------------------------------------------------------------------


@pytest.mark.skipif(not (REAL_DATA / "test.jsonl").is_file(), reason=f"no GSM8K files in {REAL_DATA}")
def test_every_real_reference_solution_is_strictly_correct():
    files = [str(REAL_DATA / "train.jsonl"), str(REAL_DATA / "test.jsonl")]
    splits = load(data_files=files, train_size=None, validation_size=None, test_size=None)
    assert [splits[split].num_rows for split in SPLITS] == [7473 - 512, 512, 1319]
    assert sum(correctness(splits["test"]["completion"], splits["test"]["answer"])) == 1319
    assert sum(format_reward(splits["test"]["completion"])) == 1319


def test_two_files_keep_the_test_file_and_carve_validation_from_the_first(tmp_path):
    files = [write_jsonl(tmp_path / "a.jsonl", range(100)), write_jsonl(tmp_path / "b.jsonl", range(5000, 5030))]
    splits = load(data_files=files, train_size=None, validation_size=None, test_size=None)
    assert splits["test"]["answer"] == [str(n) for n in range(5000, 5030)]
    assert splits["validation"].num_rows == 10
    assert sorted([*splits["train"]["answer"], *splits["validation"]["answer"]]) == sorted(map(str, range(100)))
    assert splits["test"][0] == {
        "prompt": "What is 5000?\nAnswer:",
        "completion": "It is 5,000.\n#### 5,000",
        "answer": "5000",
        "cluster": "What is 5000?\nAnswer:",
    }


def test_a_question_of_the_test_file_never_trains(tmp_path):
    files = [write_jsonl(tmp_path / "a.jsonl", range(100)), write_jsonl(tmp_path / "b.jsonl", range(90, 110))]
    splits = load(data_files=files, train_size=None, validation_size=5, test_size=None)
    assert not {*splits["train"]["prompt"], *splits["validation"]["prompt"]} & set(splits["test"]["prompt"])
    assert splits["test"].num_rows == 20


def test_one_file_is_carved_into_three_disjoint_splits_by_the_seed(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", range(100))
    sizes = {"train_size": None, "validation_size": 20, "test_size": 30}
    splits = load(data_files=[file], **sizes)
    assert sorted(int(a) for split in SPLITS for a in splits[split]["answer"]) == list(range(100))
    assert [splits[split].num_rows for split in SPLITS] == [50, 20, 30]
    assert load(data_files=[file], **sizes)["test"].to_list() == splits["test"].to_list()
    assert load(data_files=[file], **sizes, seed=1)["test"].to_list() != splits["test"].to_list()
    assert load(data_files=[file], **(sizes | {"train_size": 7}))["train"].num_rows == 7


def test_hub_rows_are_mapped_like_file_rows(tmp_path, monkeypatch):
    files = [write_jsonl(tmp_path / "a.jsonl", range(100)), write_jsonl(tmp_path / "b.jsonl", range(500, 530))]
    rows = {
        split: datasets.Dataset.from_list([json.loads(line) for line in Path(file).read_text().splitlines()])
        for split, file in zip(("train", "test"), files, strict=True)
    }
    calls = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *a: calls.append(a) or datasets.DatasetDict(rows))
    hub, local = load(dataset_name="openai/gsm8k", validation_size=9), load(data_files=files, validation_size=9)
    assert calls == [("openai/gsm8k", "main")]
    assert all(hub[split].to_list() == local[split].to_list() for split in SPLITS)


# --- bad input ------------------------------------------------------------------------------------

GOOD_LINE = '{"question": "q", "answer": "#### 1"}'


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"min_operations": 3, "max_operations": 2}, "task.min_operations = 3: "),
        ({"min_operations": 0}, "task.min_operations = 0: "),
        ({"max_operations": 4}, "task.max_operations = 4: must be in 1..3"),
        ({"max_number": 7}, "task.max_number = 7: must be in 8..1000"),
        ({"max_number": 1001}, "task.max_number = 1001: must be in 8..1000"),
        ({"train_size": 0}, "task.train_size = 0: must be at least 1"),
        ({"validation_size": -1}, "task.validation_size = -1: must be at least 1"),
        ({"test_size": 0}, "task.test_size = 0: must be at least 1"),
        ({"data_files": []}, "task.data_files = []: expected [train.jsonl]"),
        ({"data_files": ["a", "b", "c"]}, "expected [train.jsonl] or [train.jsonl, test.jsonl]"),
        ({"data_files": ["a"], "dataset_name": "b"}, "not both"),
    ],
)
def test_impossible_values_are_named(overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        load(**overrides)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("bad_line", "message"),
    [
        (b"{not json", "line 2: expected one JSON object per line"),
        (b'{"question": "\xff", "answer": "#### 1"}', "line 2: expected one JSON object per line"),
        (b"[" * 100_000, "line 2: expected one JSON object per line"),
        (b"[1, 2]", 'line 2: expected an object with the text keys "question" and "answer"'),
        (b'{"question": "q"}', 'line 2: expected an object with the text keys "question" and "answer"'),
        (b'{"question": "q", "answer": 1}', 'line 2: expected an object with the text keys "question" and "answer"'),
        (b'{"question": "q", "answer": "1"}', 'line 2: expected an "answer" that ends with'),
        (b'{"question": "q", "answer": "#### one"}', 'line 2: expected an "answer" that ends with'),
        (b'{"question": "q", "answer": "#### 1\\nmore"}', 'line 2: expected an "answer" that ends with'),
    ],
)
def test_bad_lines_are_named_by_file_and_number(tmp_path, bad_line, message):
    path = tmp_path / "train.jsonl"
    path.write_bytes(GOOD_LINE.encode() + b"\n" + bad_line + b"\n")
    with pytest.raises(ValueError, match=re.escape(f"{path}, {message}")) as raised:
        load(data_files=[str(path)])
    assert "\n" not in str(raised.value)


def test_missing_empty_and_too_small_files_are_named(tmp_path):
    path = tmp_path / "train.jsonl"
    with pytest.raises(FileNotFoundError, match=re.escape(f"{path} is not a file")):
        load(data_files=[str(path)])
    path.write_text("\n")
    with pytest.raises(ValueError, match=re.escape(f"{path} has no rows")):
        load(data_files=[str(path)])
    write_jsonl(path, range(50))
    with pytest.raises(ValueError, match=r"task\.validation_size = 30 and 20 carved test rows leave nothing"):
        load(data_files=[str(path)], validation_size=30, test_size=20)


def test_hub_dataset_without_a_test_split_is_an_error(monkeypatch):
    only_train = datasets.DatasetDict({"train": datasets.Dataset.from_list([json.loads(GOOD_LINE)])})
    monkeypatch.setattr(datasets, "load_dataset", lambda *a: only_train)
    with pytest.raises(ValueError, match=r"task\.dataset_name = 'x/y': expected splits train and test"):
        load(dataset_name="x/y")
