"""A user's own file is a task: loaded by path, checked before any work, trained and evaluated as ours are."""

import shutil

import pytest
from datasets import Dataset
from paths import REPO

from trainers.evaluating.identity import settings
from trainers.grpo.trainer import ImprovedDiffuGRPOTrainer
from trainers.settings.config import parse
from trainers.settings.options import ConfigError
from trainers.settings.task import TaskArguments
from trainers.task_loading import check_splits, load_task
from trainers.tasks import TASKS

TEMPLATE = REPO / "docs/task_template.py"
CONFIG = REPO / "configs/trajectory_nelbo_gsm8k.yaml"


def own(path, **options):
    return TaskArguments(task_path=str(path), rewards=["correctness"], **options)


@pytest.fixture
def edited(tmp_path):
    """The template with one text in place of another."""

    def edit(old, new):
        text = TEMPLATE.read_text()
        assert text.count(old) == 1
        path = tmp_path / "my_task.py"
        path.write_text(text.replace(old, new))
        return path

    return edit


def test_the_template_is_a_task_with_its_own_option():
    task, splits = load_task(own(TEMPLATE, task_options={"letters": 5}, test_size=32))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 2048, "validation": 64, "test": 32}
    row = splits["test"][0]
    assert row["prompt"].startswith("Sort: ") and len(row["answer"].split()) == 5
    assert task.verify(row["completion"], row["answer"]).strict
    assert not task.verify(row["completion"][::-1], row["answer"]).lenient
    assert task.module.REWARDS["in_place"]([row["completion"]], [row["answer"]]) == [1.0]
    again = load_task(own(TEMPLATE, task_options={"letters": 5}, test_size=32))[1]
    assert all(again[name].to_list() == splits[name].to_list() for name in splits)


def test_the_template_trains_by_grpo(grpo_args, make_policy):
    task, splits = load_task(own(TEMPLATE, train_size=64))
    rewards, train = [task.module.REWARDS["in_place"]], splits["train"]
    trainer = ImprovedDiffuGRPOTrainer(make_policy(), rewards, grpo_args(max_steps=2), train, splits["validation"])
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "rewards/in_place/mean" in entry] == [1, 2]


def test_own_data_files_are_read(tmp_path):
    lines = tmp_path / "letters.jsonl"
    words = ["dbac", "fehg", "zyxw", "mnlk", "qpro", "aceg", "bdfh", "ikmo", "jlnp", "rtvx", "suwy"]
    lines.write_text("".join(f'{{"letters": {list(word)}}}\n'.replace("'", '"') for word in words))
    _, splits = load_task(own(TEMPLATE, data_files=[str(lines)]))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 9, "validation": 1, "test": 1}
    lines.write_text('{"letters": 3}\n')
    with pytest.raises(ConfigError, match=r"letters\.jsonl, line 1: expected \{"):
        load_task(own(TEMPLATE, data_files=[str(lines)]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"task_options": {"leters": 5}},
            r"task\.options: leters=5: task task_template has no such option; .* letters",
        ),
        ({"task_options": {"letters": 99}}, r"letters = 99: must be in 2\.\.26"),
        ({"task_options": {"seed": 5}}, r"task\.options: seed=5: task task_template has no such option"),
        ({"max_number": 7}, r"task\.max_number=7: task task_template has no such option"),
        ({"solutions": ["full"]}, r"task\.solutions=\['full'\]: task task_template has no such option"),
        ({"dataset_name": "a/b"}, r"task\.dataset_name = 'a/b'"),
    ],
    ids=str,
)
def test_an_option_that_the_task_does_not_have_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        load_task(own(TEMPLATE, **options))


@pytest.mark.parametrize("text", ["[1]", "letters", "{'letters': 5}"])
def test_options_that_are_no_mapping_are_refused(text):
    with pytest.raises(ConfigError, match=r"task\.options=.*expected key: value pairs"):
        TaskArguments(task_options=text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("def verify(", "def check(", "it has no function verify"),
        ('REWARDS = {"correctness": correctness', 'REWARDS = {"correctness": 1', "expected reward functions by name"),
        ("import random\n", "import rndom\n", "importing it raised ModuleNotFoundError: No module named 'rndom'"),
        ("LETTERS = string", "LETTERS = ) string", "importing it raised SyntaxError"),
        ("strict=completion.strip() == answer", "strict=completion == answer[::-1]", "own completion must be right"),
        ("strict=completion.strip() == answer", "strict=completion.strip() == answer.x", "raised AttributeError"),
        (
            "    seed: int,\n    letters: int = 4,",
            "    seed: int,\n    letters: int,",
            "letters is missing, which task",
        ),
        ('"answer": answer, "cluster": answer}', '"answer": answer}', "no column 'cluster'"),
        ('"cluster": answer}', '"cluster": "all"}', "train and validation share cluster 'all'"),
        (
            'return f"{question}\\nAnswer:"',
            'return ""',
            "row 0: the prompt is not a text or a list of messages",
        ),
    ],
    ids=str,
)
def test_a_file_that_is_no_task_is_refused_in_one_line(edited, old, new, message):
    with pytest.raises(ConfigError) as error:
        load_task(own(edited(old, new)))
    assert message in str(error.value)


def test_a_prompt_may_be_messages(edited):
    system = '{"role": "system", "content": "Sort."}'
    chat = f'return [{system}, {{"role": "user", "content": question}}]'
    _, splits = load_task(own(edited('return f"{question}\\nAnswer:"', chat)))
    first, second = splits["test"][0]["prompt"]
    assert first == {"role": "system", "content": "Sort."} and second["content"].startswith("Sort: ")
    for old, new, message in (
        ("}]", '}, {"role": "assistant", "content": "a"}]', "the last message of the prompt is the assistant's"),
        ("question}", '""}', "expected a text each for role and content"),
        ('"role": "user"', '"by": "user"', "expected a text each for role and content"),
    ):
        with pytest.raises(ConfigError) as error:
            load_task(own(edited('return f"{question}\\nAnswer:"', chat.replace(old, new))))
        assert "split train, row 0: " in str(error.value) and message in str(error.value)


def test_a_path_that_is_no_python_file_is_refused(tmp_path):
    for path in (tmp_path / "none.py", tmp_path, CONFIG):
        with pytest.raises(ConfigError, match=r"task\.path=.*expected a Python file"):
            load_task(own(path))


def test_an_empty_split_is_refused():
    _, splits = load_task(own(TEMPLATE))
    with pytest.raises(ConfigError, match="split validation is empty"):
        check_splits({**splits, "validation": splits["validation"].select([])}, "x")
    with pytest.raises(ConfigError, match="expected train, validation, test"):
        check_splits({"train": splits["train"]}, "x")


def test_a_path_wins_over_the_name_of_a_config_and_options_come_from_the_command_line():
    config = parse([str(CONFIG), "--task.path", str(TEMPLATE), "--task.options", '{"letters": 3}'])
    assert config.task.label == "task_template" and config.task.task_options == {"letters": 3}
    assert config.describe()["task"]["options"] == {"letters": 3}


def test_evaluations_of_two_versions_of_a_file_are_not_the_same_task(edited):
    other = edited("lenient=completion.split() == answer.split()", "lenient=True")
    shutil.copy(TEMPLATE, other.parent / "copy.py")
    found = [settings(parse([str(CONFIG), "--task.path", str(p)]))["task.name"] for p in (TEMPLATE, other)]
    assert found[0].split()[1] != found[1].split()[1]
    same = settings(parse([str(CONFIG), "--task.path", str(other.parent / "copy.py")]))["task.name"]
    assert same.split()[1] == found[0].split()[1]


def rows_of(clusters):
    return Dataset.from_list(
        [dict.fromkeys(("prompt", "completion", "answer"), "x") | {"cluster": c} for c in clusters]
    )


def test_shared_clusters_are_seen_between_any_two_splits():
    names = ("train", "validation", "test")
    for one in names:
        for other in names:
            splits = {name: rows_of([name, "shared"] if name in (one, other) else [name]) for name in names}
            if one == other:
                check_splits(splits, "x")
            else:
                with pytest.raises(ConfigError, match="share cluster 'shared'"):
                    check_splits(splits, "x")


GENERATED = [
    name for name in TASKS if name not in ("svamp", "code", "own")
]  # two have no generator, one asks before it runs


@pytest.mark.parametrize("name", GENERATED)
def test_every_task_with_a_generator_has_disjoint_splits_and_knows_its_own_completions(name):
    arguments = TaskArguments(
        task_name=name, train_size=200, validation_size=20, test_size=20, rewards=["correctness"]
    )
    task, splits = load_task(arguments)  # raises where clusters are shared
    for rows in splits.values():
        for row in rows.select(range(5)):
            verdict = task.verify(row["completion"], row["answer"])
            assert verdict.strict and verdict.lenient
