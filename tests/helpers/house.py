"""How large the house is: a line a room, and lengths of functions. `python tests/helpers/house.py [ROOT]` prints it.

A function's length is its lines from ``def`` to its last statement, without its docstring; classes are counted by
their methods. Tests are not counted.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from floors import HOUSE, imports, modules, room


@dataclass(frozen=True)
class Function:
    """A function or method: where, and how long."""

    where: str
    lines: int


def functions(root: Path) -> list[Function]:
    """Every function and method of the house."""
    return [found for name, path in modules(root).items() for found in _functions(name, ast.parse(path.read_text()))]


def _functions(module: str, tree: ast.AST) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
            yield Function(f"{module}.{node.name}", (node.end_lineno or 0) - node.lineno + 1 - docstring)


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def main(root: Path) -> None:
    """Print the table of rooms and the summary below it."""
    files = modules(root)
    rooms: dict[str, list[str]] = {}
    for name in files:
        if name not in HOUSE:
            rooms.setdefault(room(name), []).append(name)
    print("| room | files | lines | longest file |\n|---|---|---|---|")
    for name, members in sorted(rooms.items()):
        longest = max(members, key=lambda member: lines(files[member]))
        total = sum(lines(files[member]) for member in members)
        print(f"| `{name}` | {len(members)} | {total} | `{longest}` ({lines(files[longest])}) |")
    between = {(room(one.module), room(one.taken)) for one in imports(root) if one.module not in HOUSE}
    found = functions(root)
    print(f"\nrooms {len(rooms)}, imports between rooms {sum(a != b for a, b in between)}, files {len(files)}")
    for top in HOUSE:
        own = sorted((f for f in found if f.where.startswith(top)), key=lambda f: f.lines)
        lengths = [f.lines for f in own]
        ninth = quantiles(lengths, n=10)[8]
        print(f"{top}: {len(own)} functions, median {median(lengths):g} lines, 90th percentile {ninth:.0f}, longest:")
        for function in reversed(own[-3:]):
            print(f"  {function.lines:4d} {function.where}")
    print("longest files:")
    for name in sorted(files, key=lambda name: -lines(files[name]))[:5]:
        print(f"  {lines(files[name]):4d} {name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2])
