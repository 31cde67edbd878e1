"""The house as its imports show it: modules, the rooms they stand in, and the floors that the rooms stand on.

A *room* is a wing (a folder of `core` or `trainers`) or a single file beside the wings.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

HOUSE = ("core", "trainers")

# The rooms of each floor, from the ground up. A room imports from floors below its own, and nothing beside it:
# docs/architecture.md says what lives in each.
FLOORS = [
    ("core.names", "core.alpha_schedule", "core.trajectory", "core.denoisers"),
    ("core.masking_strategy",),
    ("core.sampling", "core.scoring"),
    ("core.generator", "core.nelbo", "core.flow"),
    ("core.likelihoods", "core.scheduled_sampling", "core.oracles"),
    ("trainers.tasks", "trainers.rollouts", "trainers.collating", "trainers.exposure"),
    ("trainers.settings",),
    ("trainers.models", "trainers.faults"),
    ("trainers.distributed", "trainers.commands", "trainers.inputs"),
    ("trainers.saving",),
    ("trainers.evaluating", "trainers.rewarding", "trainers.benchmarking"),
    ("trainers.memory_budget", "trainers.reporting", "trainers.task_loading"),
    ("trainers.grpo", "trainers.sft", "trainers.dpo"),
    ("trainers.experiment",),
    ("trainers.studies", "trainers.planning"),
    ("trainers.doctor",),
]


@dataclass(frozen=True)
class Import:
    """One imported name: where it is written, and the module or the name in a module that it takes."""

    module: str
    line: int
    taken: str
    name: str = ""  # of what is taken out of the module; empty: the module itself

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {'.'.join(filter(None, (self.taken, self.name)))}"


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, of all Python files of the house; a wing's own name is that of its ``__init__.py``."""
    found = {}
    for path in sorted(path for top in HOUSE for path in (root / top).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(root: Path) -> list[Import]:
    """Every import of a module of the house by another one, those inside functions too."""
    known = modules(root)
    return [found for name, path in known.items() for found in _imports(name, path, known)]


def _imports(module: str, path: Path, known: dict[str, Path]) -> Iterator[Import]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            taken = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            from_ = node.module or ""
            names = [(f"{from_}.{alias.name}", from_, alias.name) for alias in node.names]
            taken = [(whole, "") if whole in known else (part, name) for whole, part, name in names]
        else:
            continue
        yield from (Import(module, node.lineno, whole, name) for whole, name in taken if whole in known)


def room(module: str) -> str:
    """The wing, or the file beside the wings, that a module belongs to."""
    return ".".join(module.split(".")[:2])


def faults(root: Path, floors: list[tuple[str, ...]]) -> list[str]:
    """What is wrong with the imports of a tree, a line each.

    Args:
        root: the folder that holds `core` and `trainers`.
        floors: the rooms of each floor, from the ground up. A room imports from floors below its own, and from nothing
            beside it.
    """
    height = {name: floor for floor, names in enumerate(floors) for name in names}
    found = imports(root)
    rooms = {room(module) for module in modules(root)} - set(HOUSE)
    wrong = [f"{name} has no floor in the table" for name in sorted(rooms - height.keys())]
    wrong += [f"{name} is in the table and not in the tree" for name in sorted(height.keys() - rooms)]
    across = [one for one in found if room(one.module) != room(one.taken) and one.module not in HOUSE]
    for one in across:
        above, below = height.get(room(one.module), 0), height.get(room(one.taken), -1)
        if one.taken in HOUSE:
            wrong.append(f"{one}: the house's own door is for those outside")
        elif below >= above:
            wrong.append(f"{one}: {'upwards' if below > above else 'from a room on its own floor'}")
        if any(part.startswith("_") for part in [*one.taken.split("."), one.name]):
            wrong.append(f"{one}: a private name of another room")
    return wrong + _circles(found)


def _circles(found: list[Import]) -> list[str]:
    """Modules that import one another, within a wing or across; a wing's door stands above what it hands on."""
    graph: dict[str, set[str]] = {}
    for one in found:
        graph.setdefault(one.module, set()).add(one.taken)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [f"a circle: {' <- '.join(error.args[1])}"]
    return []
