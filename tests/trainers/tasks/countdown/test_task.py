"""The Countdown task: any right expression counts and no other text does, splits are disjoint, bad input is named."""

import itertools
import json
import random
import re
from pathlib import Path

import datasets
import pytest
from arithmetic_bounds import bounds_of
from transformers import AutoTokenizer
from trees import trees

from trainers.models.tiny import TINY_ASSETS
from trainers.tasks.arithmetic import MAX_EXPRESSION_TOKENS
from trainers.tasks.countdown import generator, task

SPLITS = ("train", "validation", "test")
CANVAS = 14  # tokens, of configs/sft_countdown.yaml


def load(**overrides) -> dict[str, datasets.Dataset]:
    sizes = {"train_size": 200, "validation_size": 20, "test_size": 40}
    return task.load_splits(**({"data_files": None, "dataset_name": None, **sizes, **bounds_of(2, 2)} | overrides))


def write_jsonl(path: Path, targets: range) -> str:
    rows = [{"nums": [n - 5, 2, 3], "target": n} for n in targets]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def targets_of(split: datasets.Dataset) -> list[int]:
    return [int(answer.partition("=")[2]) for answer in split["answer"]]


def is_right(text: str, answer: str) -> tuple[bool, bool]:
    verdict = task.verify(text, answer)
    return verdict.strict, verdict.lenient


@pytest.mark.parametrize("text", ["(3+4)*7+0", "0+(3+4)*7", "(3+4)*7*01", "(3+4)*7+0.0", "(3+4)*7+.0"])
def test_a_number_that_was_not_given_is_not_overlooked(text):
    """Neither zero nor a decimal is a given number, so it must spoil the expression rather than be skipped."""
    assert task.verify(text, "3 4 7=49").strict is False


# --- verifier -------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [(2, 3), (1, 1, 2), (3, 4, 7), (6, 2, 3), (1, 2, 3, 4)])
def test_verifier_agrees_with_brute_force_for_every_expression_and_target(numbers):
    expressions = [pair for order in set(itertools.permutations(numbers)) for pair in trees(order)]
    expressions = random.Random(0).sample(expressions, min(400, len(expressions)))
    for (text, value), target in itertools.product(expressions, (1, 2, 5, 6, 24)):
        answer = f"{' '.join(map(str, numbers))}={target}"
        assert is_right(text, answer) == (value == target, value == target)


VERDICTS = [  # completion, strict, lenient; the answer is 3 4 7=49
    ("(3+4)*7", True, True),
    ("7*(4+3)", True, True),
    ("7*3+7*4", False, False),  # 7 twice
    (" ( 3 + 4 ) * 7 \n", True, True),
    ("((3+4))*(7)", True, True),
    ("(3+4)*7=49", False, True),
    ("Try (3+4)*7 = 49.", False, True),
    ("The answer is\n(3+4)*7", False, True),
    ("(3+4)*7\n3+4+7", False, False),  # the last expression counts
    ("3+4+7\n(3+4)*7", False, True),
    ("(3+4)\n*7", False, False),  # no expression crosses a line
    ("3+4*7", False, False),
    ("3+4", False, False),  # 7 is missing
    ("(3+4)*7*1", False, False),
    ("49", False, False),
    ("7*7", False, False),
    ("", False, False),
    ("(", False, False),
    (")3+4(*7", False, False),
    ("(3+4)*7)", False, False),
    ("((3+4)*7", False, False),
    ("(3+4)7", False, False),
    ("(3+4)**7", False, False),
    ("(3+4)//7", False, False),
    ("(3+4)*+7", False, False),
    ("-(3+4)*-7", False, False),
    ("+(3+4)*7", False, False),
    ("(03+4)*7", False, False),
    ("(3.0+4)*7", False, False),
    ("(3+4)*7.5", False, False),
    ("(3+4)*7e0", False, False),
    ("(3+4)*7_", False, False),
    ("x(3+4)*7", False, True),  # a word before it, as in "Answer:(3+4)*7"
    ("(3+4)*7x", False, False),
    ("(٣+4)*7", False, False),  # Arabic-Indic three
    ("(3+4)*⁷", False, False),
    ("(3+4)*\uff17", False, False),  # full-width seven
    ("__import__('os').getcwd()", False, False),
    ("(3+4)*7 if 1 else 2", False, True),  # a bare number is no expression
    ("9**9**9**9", False, False),
    ("3/0", False, False),
    ("(3+4)*7/(1-1)", False, False),
    ("1/0+(3+4)*7", False, False),
]


@pytest.mark.parametrize(("completion", "strict", "lenient"), VERDICTS)
def test_verdict(completion, strict, lenient):
    assert is_right(completion, "3 4 7=49") == (strict, lenient)


def test_division_is_exact_and_passes_through_fractions():
    assert is_right("8/(3-8/3)", "3 3 8 8=24") == (True, True)
    assert is_right("7/2+3", "2 3 7=6") == (False, False)  # 6.5; whole division would give 6
    assert is_right("1/49*49", "1 49 49=1") == (True, True)  # 0.9999999999999999 in floats


def test_division_by_zero_is_wrong_and_no_error():
    assert is_right("3/(4-4)", "3 4 4=1") == (False, False)
    assert task.format_reward(["3/(4-4)"]) == [0.0]


def test_numbers_glued_together_or_split_do_not_count():
    assert is_right("12+3", "1 2 3=15") == (False, False)
    assert is_right("1 2+3", "1 2 3=15") == (False, False)
    assert is_right("1+2+3", "3 12=6") == (False, False)
    assert is_right("3+12", "3 12=15") == (True, True)


def test_order_of_the_answer_does_not_matter():
    assert is_right("7-4", "7 4=3") == is_right("7-4", "4 7=3") == (True, True)


@pytest.mark.parametrize("answer", ["", "49", "3 4 7", "3=3", "3 4 7=", "3 4 7=x", "3,4,7=49", "3 4 7=-1", "3  4=7"])
def test_a_reference_that_is_no_instance_is_an_error(answer):
    with pytest.raises(ValueError, match="expected numbers and a target"):
        task.verify("3+4", answer)


@pytest.mark.parametrize("unit", ["(", ")", "((", "9", "9.", "9,", "1+", "1-(", "(1*", "x", "_", "\n", " ", "1/0 "])
def test_long_and_deep_text_is_wrong_and_no_error(unit):
    text = unit * (100_000 // len(unit))
    for hostile in (text, f"{text}1", f"{text}\x00"):
        assert is_right(hostile, "3 4 7=49") == (False, False)
        assert task.format_reward([hostile]) == [0.0]


def test_an_expression_at_the_length_limit_is_read_and_one_token_more_is_not():
    depth = (MAX_EXPRESSION_TOKENS - 3) // 2
    assert is_right("(" * depth + "3+4" + ")" * depth, "3 4=7") == (True, True)
    assert is_right("(" * (depth + 1) + "3+4" + ")" * (depth + 1), "3 4=7") == (False, False)


# --- rewards --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("(3+4)*7", 1.0),
        (" 1 + 1\n", 1.0),
        ("3", 0.0),
        ("(3)", 0.0),
        ("3+4=7", 0.0),
        ("3+", 0.0),
        ("a+b", 0.0),
        ("", 0.0),
    ],
)
def test_format_reward_wants_one_expression_and_nothing_else(text, reward):
    assert task.format_reward([text]) == [reward]


def test_rewards_agree_on_plain_and_conversational_completions():
    texts, answers = ["(3+4)*7", "3+4+7", "49"], ["3 4 7=49"] * 3
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    for completions in (texts, chats):
        extra = {"completions": completions, "prompts": texts, "answer": answers, "trainer_state": None}
        assert task.REWARDS["correctness"](**extra) == [1.0, 0.0, 0.0]
        assert task.REWARDS["format"](**extra) == [1.0, 1.0, 0.0]


# --- embedded problems ----------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high", "max_number"), [(2, 2, 20), (1, 2, 20), (3, 3, 12), (1, 3, 1000)])
def test_problems_are_solved_within_bounds_and_stated_in_full(low, high, max_number):
    for row in (row for split in load(**bounds_of(low, high, max_number)).values() for row in split):
        numbers, _, target = row["answer"].partition("=")
        values = [int(number) for number in numbers.split()]
        assert values == sorted(values)
        assert low + 1 <= len(values) <= high + 1
        assert all(1 <= value <= max_number for value in values)
        assert 1 <= int(target) <= generator.MAX_TARGET_RATIO * max_number
        assert row["prompt"] == f"Use {', '.join(numbers.split())} to get {target}.\nAnswer:"
        assert row["cluster"] == row["answer"]
        assert is_right(row["completion"], row["answer"]) == (True, True)
        assert task.format_reward([row["completion"]]) == [1.0]


def test_every_reference_completion_fits_the_canvas_of_the_embedded_model():
    tokenizer = AutoTokenizer.from_pretrained(TINY_ASSETS)
    rows = load(train_size=2000)["train"]
    completions = tokenizer(list(rows["completion"]))["input_ids"]
    assert max(map(len, completions)) == len("18-(20-19)")  # a token a character
    assert max(map(len, completions)) + 1 <= CANVAS  # and EOS
    assert max(map(len, tokenizer(list(rows["prompt"]))["input_ids"])) <= 24


def test_every_operation_occurs_in_a_tenth_of_the_references():
    completions = load(train_size=1000)["train"]["completion"]
    assert all(sum(sign in text for text in completions) >= 100 for sign in "+-*/(")


def test_no_instance_repeats_in_a_held_out_split():
    test = load(test_size=300)["test"]
    assert len(set(test["answer"])) == 300


def test_generation_depends_on_the_seed_alone():
    test = load()["test"].to_list()
    assert load(train_size=5, validation_size=7)["test"].to_list() == test
    assert load(seed=1)["test"].to_list() != test


def test_unreachable_test_size_is_an_error_that_names_what_is_possible():
    with pytest.raises(ValueError, match=r"task\.test_size = 100000: only about \d+ distinct instances") as raised:
        load(test_size=100_000, max_number=6)
    assert "\n" not in str(raised.value)


# --- real data ------------------------------------------------------------------------------------


def test_two_files_keep_the_test_file_and_carve_validation_from_the_first(tmp_path):
    files = [write_jsonl(tmp_path / "a.jsonl", range(10, 110)), write_jsonl(tmp_path / "b.jsonl", range(500, 530))]
    splits = load(data_files=files, train_size=None, validation_size=None, test_size=None)
    assert targets_of(splits["test"]) == list(range(500, 530))
    assert splits["validation"].num_rows == 10
    assert sorted(targets_of(splits["train"]) + targets_of(splits["validation"])) == list(range(10, 110))
    assert splits["test"][0] == {
        "prompt": "Use 2, 3, 495 to get 500.\nAnswer:",
        "completion": "495+3+2",
        "answer": "2 3 495=500",
        "cluster": "2 3 495=500",
    }


def test_an_instance_of_the_test_file_never_trains_in_whatever_order_it_is_written(tmp_path):
    train = write_jsonl(tmp_path / "a.jsonl", range(10, 50))
    test = tmp_path / "b.jsonl"
    test.write_text('{"nums": [2, 3, 15], "target": 20}\n{"nums": [25, 3, 2], "target": 30}\n')
    splits = load(data_files=[train, str(test)], train_size=None, validation_size=5, test_size=None)
    seen = targets_of(splits["train"]) + targets_of(splits["validation"])
    assert sorted(seen) == [n for n in range(10, 50) if n not in (20, 30)]


def test_one_file_is_carved_into_three_disjoint_splits_by_the_seed(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", range(10, 70))
    sizes = {"train_size": None, "validation_size": 20, "test_size": 30}
    splits = load(data_files=[file], **sizes)
    assert sorted(target for split in SPLITS for target in targets_of(splits[split])) == list(range(10, 70))
    assert [splits[split].num_rows for split in SPLITS] == [10, 20, 30]
    assert load(data_files=[file], **sizes)["test"].to_list() == splits["test"].to_list()
    assert load(data_files=[file], **sizes, seed=1)["test"].to_list() != splits["test"].to_list()
    assert load(data_files=[file], **(sizes | {"train_size": 7}))["train"].num_rows == 7


@pytest.mark.parametrize("with_test", [True, False])
def test_hub_rows_are_mapped_like_file_rows(tmp_path, monkeypatch, with_test):
    files = [write_jsonl(tmp_path / "a.jsonl", range(10, 60)), write_jsonl(tmp_path / "b.jsonl", range(70, 80))]
    files = files if with_test else files[:1]
    rows = {
        split: datasets.Dataset.from_list([json.loads(line) for line in Path(file).read_text().splitlines()])
        for split, file in zip(("train", "test"), files, strict=False)
    }
    calls = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *a: calls.append(a) or datasets.DatasetDict(rows))
    sizes = {"validation_size": 5, "test_size": 5}
    hub, local = load(dataset_name="x/countdown", **sizes), load(data_files=files, **sizes)
    assert calls == [("x/countdown",)]
    assert all(hub[split].to_list() == local[split].to_list() for split in SPLITS)


# --- bad input ------------------------------------------------------------------------------------

GOOD_LINE = b'{"nums": [3, 4, 7], "target": 49}'
EXPECTED = 'line 2: expected {"nums": [3, 4, 7], "target": 49} with whole numbers from 1 to 999999999'


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"min_operations": 3, "max_operations": 2}, "task.min_operations = 3: "),
        ({"min_operations": 0}, "task.min_operations = 0: "),
        ({"max_operations": 4}, "task.max_operations = 4: must be in 1..3"),
        ({"max_number": 1}, "task.max_number = 1: must be in 2..1000"),
        ({"max_number": 1001}, "task.max_number = 1001: must be in 2..1000"),
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
        (b'{"nums": "\xff"}', "line 2: expected one JSON object per line"),
        (b"[" * 100_000, "line 2: expected one JSON object per line"),
        (b"[3, 4, 7]", EXPECTED),
        (b'{"nums": [3, 4, 7]}', EXPECTED),
        (b'{"target": 49}', EXPECTED),
        (b'{"nums": "3 4 7", "target": 49}', EXPECTED),
        (b'{"nums": [3, 4, "7"], "target": 49}', EXPECTED),
        (b'{"nums": [3, 4, 7.0], "target": 49}', EXPECTED),
        (b'{"nums": [3, 4, true], "target": 49}', EXPECTED),
        (b'{"nums": [3, 4, 0], "target": 49}', EXPECTED),
        (b'{"nums": [3, 4, 7], "target": -49}', EXPECTED),
        (b'{"nums": [3, 4, 7], "target": 1000000000}', EXPECTED),
        (b'{"nums": [49], "target": 49}', 'line 2: "nums" has 1 numbers; expected 2 to 4'),
        (b'{"nums": [1, 2, 3, 4, 5], "target": 15}', 'line 2: "nums" has 5 numbers; expected 2 to 4'),
        (b'{"nums": [3, 4, 7], "target": 1000}', "line 2: no expression of (3, 4, 7) equals 1000"),
    ],
)
def test_bad_lines_are_named_by_file_and_number(tmp_path, bad_line, message):
    path = tmp_path / "train.jsonl"
    path.write_bytes(GOOD_LINE + b"\n" + bad_line + b"\n" + b'{"nums": [1, 2], "target": 3}\n')
    with pytest.raises(ValueError, match=re.escape(f"{path}, {message}")) as raised:
        load(data_files=[str(path)], validation_size=1, test_size=1)
    assert "\n" not in str(raised.value)


def test_missing_empty_and_too_small_files_are_named(tmp_path):
    path = tmp_path / "train.jsonl"
    with pytest.raises(FileNotFoundError, match=re.escape(f"{path} is not a file")):
        load(data_files=[str(path)])
    path.write_text("\n")
    with pytest.raises(ValueError, match=re.escape(f"{path} has no rows")):
        load(data_files=[str(path)])
    write_jsonl(path, range(10, 60))
    with pytest.raises(ValueError, match=r"task\.validation_size = 30 and 20 carved test rows leave nothing"):
        load(data_files=[str(path)], validation_size=30, test_size=20)


def test_hub_dataset_without_a_train_split_is_an_error(monkeypatch):
    only_test = datasets.DatasetDict({"test": datasets.Dataset.from_list([json.loads(GOOD_LINE)])})
    monkeypatch.setattr(datasets, "load_dataset", lambda *a: only_test)
    with pytest.raises(ValueError, match=r"task\.dataset_name = 'x/y': expected a split train, got \['test'\]"):
        load(dataset_name="x/y")
