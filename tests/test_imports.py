"""Imports go down only, and what is said once is said in one place: read from the source, by ast."""

import ast
import io
import sys
import tokenize
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
OURS = ("core", "trainers", "scripts")
STANDARD = set(sys.stdlib_module_names)
LEARNING = {"accelerate", "datasets", "peft", "safetensors", "tokenizers", "torch", "transformers", "trl"}
PLUMBING = {"jaxtyping", "lm_eval", "math_verify", "matplotlib", "numpy", "rich", "tqdm", "yaml"}

# Each module of core and what it may import of core: DESIGN, "imports go down only".
LOWEST = {"alpha_schedule"}
LOW = LOWEST | {
    "projection",
    "attention",
    "masking_strategy",
    "share",
    "trajectory",
    "noise",
    "prediction",
    "selection",
    "solvers",
}
MIDDLE = LOW | {"denoiser"}
ROLLOUT = MIDDLE | {"cached_denoiser", "context", "caches", "canvas", "samplers", "generator"}
LAYERS = {
    "alpha_schedule": set(),
    "attention": set(),
    "projection": set(),
    "masking_strategy": LOWEST,
    "share": LOWEST | {"masking_strategy"},
    "trajectory": LOWEST,
    "noise": set(),
    "prediction": set(),
    "selection": {"prediction"},
    "solvers": LOWEST,
    "denoiser": LOW,
    "cached_denoiser": MIDDLE,
    "annealed_denoiser": MIDDLE,
    "unpadded": MIDDLE,
    "streaming": MIDDLE,
    "likelihood": MIDDLE | {"streaming"},
    "nelbo": MIDDLE | {"streaming", "likelihood"},
    "estimators": MIDDLE | {"streaming", "likelihood", "nelbo"},
    "exact": MIDDLE,
    "context": MIDDLE | {"attention"},
    "caches": MIDDLE | {"attention", "cached_denoiser", "context"},
    "canvas": MIDDLE | {"context"},
    "samplers": MIDDLE | {"context", "canvas"},
    "generator": ROLLOUT - {"generator"},
    "reflexflow": set(),
    "flow_matching": MIDDLE | {"reflexflow"},
    "scheduled_sampling": ROLLOUT | {"likelihood", "nelbo"},
    "sampler_law": ROLLOUT | {"exact"},
}


TASK_NAMES = {"gsm8k", "svamp", "countdown", "sudoku", "math", "code"}


def sources(*folders: str) -> list[Path]:
    """All but the code of stand-ins for checkpoints, which is copied before it is run."""
    paths = (path for folder in folders for path in (REPO / folder).rglob("*.py"))
    return sorted(path for path in paths if path.parent != REPO / "tests/trainers/zoo/code")


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


@pytest.mark.parametrize("path", [path for path in sources("core") if path.name != "__init__.py"], ids=name_of)
def test_core_imports_go_down_only(path):
    assert path.stem in LAYERS, "a new module of core needs a place in the order"
    used = {name.split(".")[1] for name in imports(path) if name.startswith("core.")}
    assert used <= LAYERS[path.stem]


def test_the_order_of_core_has_no_cycle():
    height = {name: len(LAYERS[name]) for name in LAYERS}
    assert all(height[below] < height[name] for name, allowed in LAYERS.items() for below in allowed)


@pytest.mark.parametrize("path", sources("trainers"), ids=name_of)
def test_trainers_import_core_and_the_libraries(path):
    assert roots(path) - STANDARD <= {"core", "trainers"} | LEARNING | PLUMBING


@pytest.mark.parametrize(
    "path", [path for path in sources("trainers/tasks") if path.name != "__init__.py"], ids=name_of
)
def test_a_task_imports_nothing_of_ours_but_what_tasks_share(path):
    assert all(name.startswith("trainers.tasks.") for name in imports(path) if name.split(".")[0] in OURS)
    shared = {name.split(".")[2] for name in imports(path) if name.startswith("trainers.tasks.")}
    assert not shared & TASK_NAMES, "a task does not know another"


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
    allowed = 1 if name_of(path) == "trainers/families.py" else 0  # LLaDA's, which no file of its own names
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
