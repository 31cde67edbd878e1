"""What texts name is there: files and modules in README, docs, docstrings and configs; the floors in the docs."""

import re
import subprocess
from pathlib import Path

import pytest
from floors import FLOORS, modules
from paths import REPO

# not one of another repository: `configs/x.yaml` in OWNER/NAME
FILE = re.compile(
    r"(?<![\w./-])((?:core|trainers|tests|scripts|configs|docs)/(?>[\w./-]*[\w-]))"
    r"(?![\w*{<]|`?\s(?:#\s)?in [\w-]+/[\w-]+)"
)
BARE = re.compile(r"`(test_\w+\.py)`")  # a test's file, beside a word on where it is
MODULE = re.compile(r"`((?:core|trainers)\.[\w.]*\w)`")
ENDINGS = ("", ".py")
PLACEHOLDERS = ("configs/x", "configs/x.yaml")  # of usage lines


def texts() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True).stdout.split()
    kinds = (".py", ".md", ".yaml", ".toml", ".sh", "Makefile")
    return [REPO / name for name in listed if name.endswith(kinds) and not name.startswith("tests/")]


def missing_files(text: str) -> list[str]:
    named = {name.rstrip(".") for name in FILE.findall(text)} - {*PLACEHOLDERS}
    return sorted(name for name in named if not any((REPO / (name + ending)).exists() for ending in ENDINGS))


def missing_tests(text: str) -> list[str]:
    there = {path.name for path in (REPO / "tests").rglob("test_*.py")}
    return sorted(set(BARE.findall(text)) - there)


def missing_modules(text: str) -> list[str]:
    """Dotted names that are neither a module nor, in their last part, a name that a module has."""
    known = modules(REPO)

    def there(name: str) -> bool:
        module, _, last = name.rpartition(".")
        return name in known or (module in known and bool(re.search(rf"\b{last}\b", known[module].read_text())))

    return sorted({name for name in MODULE.findall(text) if not there(name)})


@pytest.mark.parametrize("missing", [missing_files, missing_modules, missing_tests])
def test_named_files_and_modules_are_there(missing):
    found = {str(path.relative_to(REPO)): missing(path.read_text(encoding="utf-8")) for path in texts()}
    assert {path: names for path, names in found.items() if names} == {}


def test_a_name_that_is_gone_is_found():
    assert missing_files("see core/likelihood.py, core/nelbo.py and docs/architecture.md.") == ["core/likelihood.py"]
    assert missing_modules("`core.likelihood`, `core.nelbo.TrajectoryNELBOLoss`, `trainers.grpo`") == [
        "core.likelihood"
    ]


def test_the_docs_have_the_floors_of_the_test():
    page = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", page, re.MULTILINE)
    found = {int(floor): set(re.findall(r"`([\w/.]+)`", rooms)) for floor, rooms in rows}
    expected = {
        floor: {room.replace(".", "/") + ("" if (REPO / room.replace(".", "/")).is_dir() else ".py") for room in rooms}
        for floor, rooms in enumerate(FLOORS, start=1)
    }
    assert found == expected
