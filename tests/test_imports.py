"""Imports go down only, and what is said once is said in one place: read from the source, by ast."""

import ast
import io
import sys
import tokenize
from pathlib import Path

import pytest
from floors import FLOORS, faults
from paths import REPO

OURS = ("core", "trainers", "scripts")
STANDARD = set(sys.stdlib_module_names)
LEARNING = {"accelerate", "datasets", "huggingface_hub", "peft", "safetensors", "tokenizers", "torch", "transformers"}
LEARNING |= {"trl"}
PLUMBING = {"jaxtyping", "lm_eval", "math_verify", "matplotlib", "numpy", "rich", "tqdm", "yaml"}

TASK_FOLDERS = {"word_problems", "countdown", "sudoku", "math", "code", "own"}
TASK_FILES = {"__init__"}  # of trainers/tasks, besides what tasks share
SHARED_BY_TASKS = {"arithmetic", "clustering", "generating", "hub", "messages", "sources", "training_data", "verdicts"}


def sources(*folders: str) -> list[Path]:
    """All but the code of stand-ins for checkpoints, which is copied before it is run."""
    paths = (path for folder in folders for path in (REPO / folder).rglob("*.py"))
    return sorted(path for path in paths if path.parent != REPO / "tests/helpers/zoo/code")


def imports(path: Path) -> set[str]:
    """Dotted names of all modules a file imports, those inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return found


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def name_of(path: Path) -> str:
    return str(path.relative_to(REPO))


@pytest.mark.parametrize("path", sources("core"), ids=name_of)
def test_core_imports_torch_and_core_alone(path):
    assert roots(path) - STANDARD <= {"torch", "jaxtyping", "core"}


def test_imports_go_down_only():
    assert faults(REPO, FLOORS) == []


@pytest.fixture
def house(tmp_path):
    """A house of two floors in which nothing is wrong."""
    for name, text in {
        "core/__init__.py": "from core.low import helper\n",
        "core/low/__init__.py": "from core.low.one import helper\n",
        "core/low/one.py": "from core.low.two import _private\n\nhelper = 1\n",
        "core/low/two.py": "_private = 0\n",
        "core/high.py": "from core.low import helper\n",
        "core/beside.py": "import core.low.one\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


HOUSE_FLOORS = [("core.low",), ("core.high", "core.beside")]


@pytest.mark.parametrize(
    ("file", "planted", "named"),
    [
        ("core/low/two.py", "from core.high import helper", "core.low.two:1 imports core.high.helper: upwards"),
        ("core/low/two.py", "def f():\n    import core.beside", "core.low.two:2 imports core.beside: upwards"),
        ("core/beside.py", "from core import high", "core.beside:1 imports core.high: from a room on its own floor"),
        ("core/low/two.py", "import core.low.one", "a circle: core.low.one <- core.low.two <- core.low.one"),
        ("core/high.py", "from core.low.two import _private", "core.low.two._private: a private name of another room"),
        ("core/high.py", "from core import low, helper", "core.high:1 imports core.helper: the house's own door is"),
        ("core/new.py", "", "core.new has no floor in the table"),
    ],
)
def test_a_planted_fault_is_named(house, file, planted, named):
    assert faults(house, HOUSE_FLOORS) == []
    path = house / file
    path.write_text(planted + "\n" + (path.read_text() if path.exists() else ""))
    assert any(named in fault for fault in faults(house, HOUSE_FLOORS)), faults(house, HOUSE_FLOORS)


def test_a_room_that_is_gone_has_no_floor(house):
    assert faults(house, [*HOUSE_FLOORS, ("core.gone",)]) == ["core.gone is in the table and not in the tree"]


def test_a_circle_through_doors_is_found(house):
    """What a door hands on stands below it: a module that takes its own wing's door goes round in a circle."""
    (house / "core/low/two.py").write_text("from core.low import helper\n")
    assert any(fault.startswith("a circle: ") for fault in faults(house, HOUSE_FLOORS))


@pytest.mark.parametrize("path", sources("trainers"), ids=name_of)
def test_trainers_import_core_and_the_libraries(path):
    assert roots(path) - STANDARD <= {"core", "trainers"} | LEARNING | PLUMBING


def strangers(tasks: Path, path: Path) -> set[str]:
    """What a file of a task imports of ours beside its own folder and what tasks share; of a shared file, beside that.

    Args:
        tasks: the folder of all tasks.
        path: a file in it.
    """
    inside = path.relative_to(tasks).parts
    allowed = SHARED_BY_TASKS | ({inside[0]} if len(inside) > 1 else set())
    ours = {tuple(name.split(".")) for name in imports(path) if name.split(".")[0] in OURS}
    return {".".join(name) for name in ours if name[:2] != ("trainers", "tasks") or not {*name[2:3]} & allowed}


TASKS = REPO / "trainers/tasks"


def test_the_tasks_and_what_they_share_are_all_there_is():
    """A new file or folder has to be put on one side: else the rule below would not speak of it."""
    assert {path.parent.name for path in TASKS.glob("*/__init__.py")} == TASK_FOLDERS
    assert {path.stem for path in TASKS.glob("*.py")} == SHARED_BY_TASKS | TASK_FILES


@pytest.mark.parametrize("path", [p for p in sources("trainers/tasks") if p != TASKS / "__init__.py"], ids=name_of)
def test_a_task_imports_nothing_of_ours_but_what_tasks_share(path):
    assert strangers(TASKS, path) == set()


@pytest.mark.parametrize(
    ("file", "planted"),
    [
        ("math/text.py", "from trainers.tasks.word_problems.numbers import parse_number"),
        ("math/text.py", "from trainers.tasks.word_problems import gsm8k"),
        ("math/text.py", "def f():\n    import trainers.tasks.code.task"),
        ("code/sandbox/wire.py", "from trainers.tasks import math"),
        ("code/sandbox/wire.py", "from trainers.tasks import TASKS"),
        ("word_problems/svamp.py", "from trainers.settings.options import ConfigError"),
        ("hub.py", "from trainers.tasks.math.text import find_boxes"),
        ("hub.py", "import core"),
    ],
)
def test_a_planted_stranger_is_named(tmp_path, file, planted):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("import math\nfrom trainers.tasks.sources import carve\n")
    assert strangers(tmp_path, path) == set()
    path.write_text(path.read_text() + planted)
    assert strangers(tmp_path, path)


def test_the_files_of_one_task_know_one_another(tmp_path):
    path = tmp_path / "math/task.py"
    path.parent.mkdir()
    path.write_text("from trainers.tasks.math.text import find_boxes\n")
    assert strangers(tmp_path, path) == set()


@pytest.mark.parametrize("path", sources("core", "trainers", "scripts", "tests"), ids=name_of)
def test_nobody_imports_scripts(path):
    assert "scripts" not in roots(path)


def numbers(path: Path) -> list[str]:
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    return [token.string for token in tokens if token.type == tokenize.NUMBER]


@pytest.mark.parametrize("path", sources("core", "trainers", "scripts"), ids=name_of)
def test_no_token_id_is_written_in_digits(path):
    """Ids of special tokens sit in the last few thousand of vocabularies of 32k to 200k: no code names such a number.

    Powers of ten and of two are sizes, not ids.
    """
    values = [int(text.replace("_", "")) for text in numbers(path) if text.replace("_", "").isdigit()]
    sizes = {10**k for k in range(10)} | {2**k for k in range(33)}
    found = [value for value in values if 30_000 <= value <= 300_000 and value not in sizes]
    allowed = 1 if name_of(path) == "trainers/models/families.py" else 0  # LLaDA's, which no file of its own names
    assert len(found) == allowed, found


@pytest.mark.parametrize(
    "path", [path for path in sources("core", "trainers", "scripts") if path.stem != "alpha_schedule"], ids=name_of
)
def test_only_the_schedule_knows_a_formula_of_t(path):
    """No circular function, and no arithmetic with alpha_min or alpha_max, outside alpha_schedule.py."""
    for node in ast.walk(ast.parse(path.read_text())):
        where = f"{name_of(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Attribute) and path.parts[-2] == "core":
            assert node.attr not in {"cos", "sin", "expm1", "pi"}, where
        if isinstance(node, ast.BinOp):
            names = {
                part.id if isinstance(part, ast.Name) else part.attr
                for part in (node.left, node.right)
                if isinstance(part, ast.Name | ast.Attribute)
            }
            assert not names & {"alpha_min", "alpha_max"}, where
