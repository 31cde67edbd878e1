"""The user's own files become three splits, every record as it was meant or named in one clear error."""

import json

import datasets
import pytest

from trainers.settings.options import ConfigError
from trainers.settings.task import TaskArguments
from trainers.task_loading import load_task
from trainers.tasks.own import verify

RECORDS = [{"prompt": f"Question {i}", "answer": f"line\u2028{i}", "level": i} for i in range(30)]
CHATS = [
    {
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": f"Question {i}", "name": "Ann"},
            {"role": "assistant", "content": f"Answer {i}"},
        ]
    }
    for i in range(10)
]


def lines(records):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


@pytest.fixture
def load(tmp_path):
    """Writes files and loads the task: text by name, and options."""

    def loaded(files, **options):
        for name, text in files.items():
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_task(TaskArguments(data_files=[str(tmp_path / name) for name in files], **options))

    return loaded


def rows_of(splits):
    return [row for rows in splits.values() for row in rows.to_list()]


def test_one_file_is_split_by_the_seed_and_says_how(load):
    splits = load({"my.jsonl": lines(RECORDS)})[1]
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 24, "validation": 3, "test": 3}
    told = "rows of my.jsonl: 24 train, 3 validation, 3 test (split by task.seed=0)"
    assert splits["train"].info.description == told
    assert sorted(row["level"] for row in rows_of(splits)) == list(range(30))
    again, other = (load({"my.jsonl": lines(RECORDS)}, task_seed=seed)[1]["test"]["level"] for seed in (0, 1))
    assert again == splits["test"]["level"] != other


def test_a_row_keeps_its_columns_and_the_answer_is_learned_where_nothing_else_is(load):
    row = next(row for row in rows_of(load({"my.jsonl": lines(RECORDS)})[1]) if row["level"] == 3)
    text = "line\u20283"
    assert row == {"prompt": "Question 3", "answer": text, "level": 3, "completion": text, "cluster": "Question 3"}
    told = [record | {"completion": "thought, then it"} for record in RECORDS]
    assert {row["completion"] for row in rows_of(load({"my.jsonl": lines(told)})[1])} == {"thought, then it"}


def test_a_test_file_is_used_whole_and_its_prompts_are_not_trained_on(load):
    splits = load({"train.jsonl": lines(RECORDS), "test.jsonl": lines(RECORDS[:5] + RECORDS[:1])})[1]
    assert sorted(splits["test"]["level"]) == [0, 0, 1, 2, 3, 4]
    assert not set(splits["train"]["level"]) & set(range(5))
    assert "5 left out of train, whose prompts are in test" in splits["train"].info.description


def test_rows_of_one_prompt_stay_together_and_none_is_lost(load):
    several = [record | {"answer": f"{text} {i}"} for record in RECORDS for i, text in enumerate("abc")]
    splits = load({"my.jsonl": lines(several)})[1]
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 72, "validation": 9, "test": 9}
    assert all(len(set(rows["prompt"])) * 3 == len(rows) for rows in splits.values())


def test_a_chat_is_prompt_and_answer(load):
    row = rows_of(load({"my.jsonl": lines(CHATS)})[1])[0]
    number = row["prompt"][1]["content"].split()[1]
    asked = [{"role": "system", "content": "Be short."}, {"role": "user", "content": f"Question {number}"}]
    assert row["prompt"] == asked and "messages" not in row
    assert row["completion"] == row["answer"] == f"Answer {number}"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bom.jsonl", "\ufeff" + lines(RECORDS)),
        ("blank.jsonl", lines(RECORDS).replace("\n", "\n\n")),
        ("crlf.jsonl", lines(RECORDS).replace("\n", "\r\n")),
        ("list.json", json.dumps(RECORDS, indent=2)),
        ("lines.json", lines(RECORDS)),
    ],
)
def test_what_editors_make_of_a_file_is_read(load, name, text):
    found = rows_of(load({name: text})[1])
    wanted = sorted((record["prompt"], record["answer"], record["level"]) for record in RECORDS)
    assert sorted((row["prompt"], row["answer"], row["level"]) for row in found) == wanted


def test_csv_is_texts_and_parquet_is_values(load, tmp_path):
    text = "prompt,answer\n" + "".join(f'"Two\nlines, {i}",00{i}\n' for i in range(9))
    assert {row["answer"] for row in rows_of(load({"my.csv": "\ufeff" + text})[1])} == {f"00{i}" for i in range(9)}
    path = tmp_path / "my.parquet"
    datasets.Dataset.from_list([{"prompt": f"Q{i}", "answer": i} for i in range(9)]).to_parquet(path)
    found = rows_of(load_task(TaskArguments(data_files=[str(path)]))[1])
    assert sorted((row["answer"], row["completion"]) for row in found) == [(i, str(i)) for i in range(9)]


def test_columns_are_mapped_by_name_in_files_and_on_the_hub(load, tmp_path):
    theirs = [{"question": record["prompt"], "solution": record["answer"]} for record in RECORDS]
    columns = {"prompt": "question", "answer": "solution"}
    found = load({"train.jsonl": lines(theirs)}, task_columns=columns)[1]
    row = found["train"][0]
    assert row["prompt"] == row["question"] and row["completion"] == row["answer"] == row["solution"]
    # a folder is what the hub is to `datasets`
    (tmp_path / "test.jsonl").write_text(lines(theirs[:8]))
    hub = load_task(TaskArguments(dataset_name=str(tmp_path), task_columns=columns, test_size=7))[1]
    assert len(hub["test"]) == 7


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (
            lines(RECORDS) + '{"prompt": "x", "answer": null}',
            {},
            "line 31: answer is None; expected a value",
        ),
        (lines(RECORDS) + '{"prompt": null}', {}, "my.jsonl, line 31: the prompt is not a text or a list of messages"),
        (json.dumps(RECORDS[0], indent=1), {}, "my.jsonl, line 1: expected one JSON object per line (Expecting"),
        (lines(RECORDS).encode() + '{"prompt": "é"}'.encode("latin-1"), {}, "line 31: expected one JSON object per l"),
        ("[1]\n", {}, "my.jsonl, line 1: expected an object with columns such as prompt and answer"),
        ("", {}, "my.jsonl has no rows; expected a .jsonl"),
        (
            '{"question": "x", "solution": "y"}',
            {},
            "line 1: no column 'prompt' or 'messages'; found question, so",
        ),
        (
            lines(RECORDS),
            {"task_columns": {"answer": "solution"}},
            "no column 'solution', which task.columns asks",
        ),
        (lines(RECORDS), {"task_columns": {"promt": "q"}}, "task.columns={'promt': 'q'}: expected names of columns"),
        (
            lines(RECORDS) + '{"prompt": "x", "answer": 3}',
            {},
            "column 'answer' holds values of different kinds (int",
        ),
        (lines(RECORDS + CHATS), {}, "column 'prompt' holds values of different kinds (list, str)"),
        (lines([{"prompt": "x", "images": 1}]), {}, "line 1: a column 'images' has a meaning of its own to TRL"),
        (lines([{"messages": CHATS[0]["messages"][2:]}]), {}, "no message in front of the assistant's"),
        (lines([{"prompt": "x", "completion": {"a": 1}}]), {}, "line 1: completion is {'a': 1}; expected a text"),
        (lines(RECORDS[:2]), {}, "leave nothing to train on: the training source has 2 distinct prompts"),
    ],
)
def test_what_cannot_be_meant_is_one_clear_error(load, text, options, said):
    with pytest.raises(ConfigError) as caught:
        load({"my.jsonl": text}, **options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("my.txt", "x", "ends in '.txt'; expected a .jsonl"),
        ("my.parquet", "x", "my.parquet is no parquet file"),
        ("my.json", "[1, 2", "my.json is not JSON"),
        ("my.csv", "prompt,answer\na,b\na,b,c\n", "my.csv, line 3: expected 2 values"),
        ("my.csv", "prompt,answer\na\n", "my.csv, line 2: expected 2 values"),
        ("my.csv", "prompt;answer\na;b\n", "line 2: no column 'prompt' or 'messages'; found prompt;answer"),
    ],
)
def test_other_files_are_refused_as_clearly(load, name, text, said):
    with pytest.raises(ConfigError) as caught:
        load({name: text})
    assert said in str(caught.value)


def test_it_has_no_problems_and_no_options_of_its_own():
    with pytest.raises(ConfigError, match=r"task\.name='own': it has no problems of its own; set task\.data_files"):
        load_task(TaskArguments(task_name="own"))
    with pytest.raises(ConfigError, match=r"task\.columns={'prompt': 'q'}: task gsm8k has no such option"):
        load_task(TaskArguments(task_columns={"prompt": "q"}))
    assert TaskArguments().task_name == "gsm8k" and TaskArguments(dataset_name="org/name").task_name == "own"


def test_a_text_is_compared_with_the_answer():
    assert verify(" 12\n", 12).strict and not verify("12.", 12).strict and verify("12.", 12).lenient
    assert verify("New  york", "New York").lenient and not verify("New  york", "New York").strict
    assert not verify("", "12").lenient and not verify("112", 12).lenient
