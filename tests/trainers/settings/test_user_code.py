"""A user's file is imported, or refused in one line that says what is there."""

import sys

import pytest

from trainers.settings.options import ConfigError
from trainers.settings.user_code import function_at

OPTION = "task.reward"
FILE = """
import helper_beside
COUNT = []
def length(completions): return [helper_beside.size(c) for c in completions]
def other(completions): return [0.0 for _ in completions]
def _hidden(): pass
class Kind: pass
number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "helper_beside.py").write_text("def size(text): return len(text)\n")
    (tmp_path / "my_rewards.py").write_text(FILE)
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "rewards.py").write_text("import no_such_package_here\n")
    (package / "fine.py").write_text("def one(completions): return [1.0]\n")
    yield tmp_path
    for name in ("helper_beside", "my_package", "my_package.fine"):
        sys.modules.pop(name, None)


def test_a_function_in_a_file_reaches_what_lies_beside_it(folder):
    assert function_at(f"{folder / 'my_rewards.py'}:length", OPTION)(["abc"]) == [3]
    length, other = (function_at(f"my_rewards.py:{name}", OPTION) for name in ("length", "other"))
    assert length.__globals__ is other.__globals__, "imported once"
    assert function_at("my_package.fine:one", OPTION)([""]) == [1.0]


def test_a_changed_file_is_imported_anew(folder):
    assert function_at("my_rewards.py:other", OPTION)([""]) == [0.0]
    (folder / "my_rewards.py").write_text("def other(completions): return [5.0]\n")
    assert function_at("my_rewards.py:other", OPTION)([""]) == [5.0]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("my_rewards.py:lenght", "expected my_rewards.py:FUNCTION; its functions are length, other"),
        ("my_rewards.py", "expected my_rewards.py:FUNCTION; its functions are length, other"),
        ("my_rewards.py:Kind", "Kind is type <class"),
        ("my_rewards.py:number", "number is int 3; expected a function"),
        ("nowhere.py:length", "'nowhere.py': expected a Python file; there is none of that name"),
        (":length", "expected FILE.py:FUNCTION or package.module:FUNCTION"),
        ("no_such_package:length", "there is no module no_such_package"),
        ("my_package.nothing:length", "there is no module my_package.nothing"),
        (
            "my_package.rewards:length",
            "importing it raised ModuleNotFoundError: No module named 'no_such",
        ),
    ],
)
def test_what_is_no_function_is_one_clear_error(folder, place, said):
    with pytest.raises(ConfigError) as caught:
        function_at(place, OPTION)
    assert said in str(caught.value) and str(caught.value).startswith("task.reward=")


@pytest.mark.parametrize("text", ["def f(:\n", "1 / 0\n", "import sys\nsys.exit(3)\n"])
def test_a_file_that_cannot_be_imported_says_why(folder, text):
    (folder / "bad.py").write_text(text)
    with pytest.raises(ConfigError, match=r"task\.reward='bad\.py': importing it raised"):
        function_at("bad.py:f", OPTION)
