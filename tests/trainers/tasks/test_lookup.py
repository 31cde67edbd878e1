"""Tasks are found by name, and each offers exactly what a task has."""

from importlib import import_module
from types import ModuleType

import pytest

import trainers.tasks
from trainers.tasks import TASKS

OFFERED = {"NAME", "REWARDS", "build_prompt", "load_splits", "verify"}
FOLDERS = (
    "code",
    "countdown",
    "math",
    "sudoku",
)  # of one task; word_problems has two files


def test_every_task_is_found_under_its_name():
    assert {name: task.NAME for name, task in TASKS.items()} == {name: name for name in TASKS}
    assert list(TASKS) == ["gsm8k", "svamp", "countdown", "sudoku", "math", "code", "own"]
    assert all(getattr(trainers.tasks, name) is task for name, task in TASKS.items())


@pytest.mark.parametrize("name", TASKS)
def test_a_task_offers_what_a_task_has(name):
    task = TASKS[name]
    assert all(callable(getattr(task, function)) for function in ("build_prompt", "load_splits", "verify"))
    assert task.REWARDS and all(map(callable, task.REWARDS.values()))


@pytest.mark.parametrize("name", FOLDERS)
def test_the_door_of_a_folder_hands_on_the_task_and_nothing_else(name):
    door, task = import_module(f"trainers.tasks.{name}"), import_module(f"trainers.tasks.{name}.task")
    assert TASKS[name] is door
    handed = {key: value for key, value in vars(door).items() if not key.startswith("_")}
    assert {key for key, value in handed.items() if not isinstance(value, ModuleType)} == OFFERED
    assert all(handed[key] is getattr(task, key) for key in OFFERED)
