"""The rewards of a run: chosen by name or place, called with what they read, checked before any work."""

import asyncio
import inspect
import json

import pytest

from trainers.rewarding.arguments import check_arguments, named
from trainers.rewarding.chosen import choose
from trainers.rewarding.guard import guard
from trainers.settings.config import parse
from trainers.settings.options import ConfigError
from trainers.settings.task import TaskArguments
from trainers.task_loading import load_task

FILE = """
def length(completions):
    return [float(len(text)) for text in completions]
def near(completions, level, weight=2.0):
    return [weight * one for one in level]
async def slow(completions, answer, **kwargs):
    return [float(text == right) for text, right in zip(completions, answer)]
def columns(prompts, completions, completion_ids, trainer_state, log_extra, log_metric, answer): return [0.0]
def missing(completions, solution, **kwargs): return [0.0]
def positional(completions, /): return [0.0]
def broken(completions, **kwargs): return [text.no_such_thing for text in completions]
def messages(completions, **kwargs): return [len(one[0]["content"]) for one in completions]
def short(completions, **kwargs): return [0.0]
def correctness(completions, **kwargs): return [0.0 for _ in completions]
"""
RECORDS = [{"prompt": f"Q{i}", "answer": f"A{i}", "level": i} for i in range(20)]
CONFIG = "trainer: grpo\n"


@pytest.fixture
def place(tmp_path):
    """Name of a reward -> its place in a file of the user's."""
    (tmp_path / "my_rewards.py").write_text(FILE)
    return lambda name: f"{tmp_path / 'my_rewards.py'}:{name}"


@pytest.fixture
def load(tmp_path, place):
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))

    def loaded(*names, **options):
        rewards = [place(name) for name in names] or None
        return load_task(TaskArguments(data_files=[str(tmp_path / "my.jsonl")], rewards=rewards, **options))

    return loaded


def test_task_reward_is_another_name_of_task_rewards(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG + "task: {rewards: [correctness]}\n")
    assert parse([str(path)]).task.rewards == ["correctness"]
    assert parse([str(path), "--task.reward", "a.py:f", "b.py:g"]).task.rewards == ["a.py:f", "b.py:g"]
    with pytest.raises(ConfigError, match=r"task\.rewards is set twice, and differently"):
        parse([str(path), "--task.reward", "a.py:f", "--task.rewards", "b.py:g"])


def test_rewards_keep_their_order_and_the_usual_ones_are_those_that_a_task_has(load):
    assert list(load("near", "length")[0].rewards) == ["near", "length"]
    assert list(choose(None, {"format": len, "other": len, "correctness": len}, "x")) == ["correctness", "format"]
    with pytest.raises(ConfigError, match="name some of other"):
        choose(None, {"other": len}, "x")
    with pytest.raises(ConfigError, match=r"task\.reward='x': expected some of other \(task y\), or a function"):
        choose(["x"], {"other": len}, "y")


def test_two_rewards_of_one_name_are_refused(place):
    with pytest.raises(ConfigError, match="there is a reward 'correctness' already; expected another name"):
        choose(["correctness", place("correctness")], {"correctness": len}, "x")


def test_a_reward_without_kwargs_gets_what_it_names(load):
    task, _ = load("length", "near")
    given = {"prompts": ["Q"], "completions": ["abc"], "completion_ids": [[1]], "level": [4], "answer": ["A"]}
    for name, wanted in {"length": 3.0, "near": 8.0}.items():
        guarded = guard(task.rewards[name], 1.0)
        assert guarded(**given) == [wanted] and not guarded.faults
        assert guarded.__name__ == name


def test_an_async_reward_stays_one_under_another_name():
    async def one(completions):
        return [1.0]

    renamed = named(one, "another")
    assert inspect.iscoroutinefunction(renamed) and renamed.__name__ == "another"
    assert asyncio.run(guard(renamed, 1.0)(completions=["a"], answer=["b"])) == [1.0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "missing",
            r"task\.reward: missing needs 'solution', which is neither a column of the data .prompt, answer, level",
        ),
        ("positional", "positional takes .* by position alone"),
        (
            "broken",
            "broken raised AttributeError: 'str' object has no attribute 'no_such_thing'; it was called with \['A",
        ),
        ("messages", "messages raised TypeError: string indices"),
        ("short", "short returned 1 values for 2 completions"),
    ],
)
def test_what_would_fail_in_every_step_is_refused_before_any_work(load, name, said):
    with pytest.raises(ConfigError, match=said):
        load(name)


def test_every_argument_of_trl_may_be_named(load):
    assert list(load("columns")[0].rewards) == ["columns"]
    check_arguments(lambda completions, answer: [], ["prompt", "completion", "answer"], "task.reward")
    with pytest.raises(ConfigError, match="f needs 'completion', which is neither"):
        check_arguments(lambda completion: [], ["prompt", "completion", "answer"], "task.reward", "f")


def test_own_data_is_verified_only_where_the_comparison_is_asked_for(load, tmp_path):
    assert load("length")[0].verify is None
    plain, _ = load()
    assert list(plain.rewards) == ["correctness"] and plain.verify is not None and plain.judge is None
    (tmp_path / "bare.jsonl").write_text("".join(f'{{"prompt": "Q{i}"}}\n' for i in range(9)))
    bare, splits = load_task(TaskArguments(data_files=[str(tmp_path / "bare.jsonl")]))
    assert bare.rewards == {} and bare.verify is None and set(splits["train"]["answer"]) == {""}
    worked = [record | {"completion": f"So: {record['answer']}"} for record in RECORDS]
    (tmp_path / "worked.jsonl").write_text("".join(json.dumps(record) + "\n" for record in worked))
    solved, _ = load_task(TaskArguments(data_files=[str(tmp_path / "worked.jsonl")]))
    assert solved.rewards == {} and solved.verify is None, "no text that was learned from would be right"
    with pytest.raises(ConfigError, match="correctness needs 'answer', which is neither"):
        load_task(TaskArguments(data_files=[str(tmp_path / "bare.jsonl")], rewards=["correctness"]))


def test_a_reward_of_ones_own_goes_with_a_shipped_task(place):
    task, _ = load_task(TaskArguments(rewards=["correctness", place("length")], train_size=8, validation_size=4))
    assert list(task.rewards) == ["correctness", "length"] and list(task.judge.rewards) == ["length"]
    assert task.verify("#### 3", "3").strict


def test_a_record_tells_one_reward_file_from_another(place, tmp_path):
    before = TaskArguments(rewards=["format", place("length")]).reward_identities
    assert len(before) == 1 and before[0].startswith("length ")
    (tmp_path / "my_rewards.py").write_text(FILE + "# changed\n")
    assert TaskArguments(rewards=["format", place("length")]).reward_identities != before
    assert TaskArguments().reward_identities == []
