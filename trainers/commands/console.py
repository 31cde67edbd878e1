"""`trajectory-nelbo COMMAND`: every script of `scripts/` by its name, from wherever the package is installed."""

import ast
import difflib
import re
import runpy
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from trainers.commands import layout
from trainers.commands.ending import main_or_one_line
from trainers.commands.help import HELP, SHORT
from trainers.commands.program import CONSOLE, call_it
from trainers.settings.options import ConfigError

SCRIPTS = Path(__file__).parents[2] / "scripts"
# in the order in which they are wanted; what is not among them follows by name
FIRST = ("train", "generate", "evaluate", "compare", "plan", "doctor", "export", "harness", "configs")
VERSION = {"-V", "--version"}
OPTIONS = SHORT | {"-V, --version": "Show the version and exit."}


def main() -> None:
    """The entry point of the package."""
    main_or_one_line(run)


def run(argv: list[str]) -> None:
    """Run a command, or say which there are.

    Raises:
        ConfigError: there is no such command.
    """
    first, *rest = argv or ["--help"]
    if first in HELP and rest:
        first, rest = rest[0], ["--help", *rest[1:]]
    if first in HELP:
        layout.show(overview())
    elif first in VERSION:
        print(f"{CONSOLE} {installed()}")
    else:
        name = first.replace("-", "_")
        if name not in commands():
            raise ConfigError(f"unknown command {first!r}: {_advice(name)} (`{CONSOLE} --help` lists all)")
        call_it(CONSOLE, name)
        sys.argv = [str(commands()[name]), *rest]
        runpy.run_path(sys.argv[0], run_name="__main__")


def commands() -> dict[str, Path]:
    """Name -> script."""
    found = {path.stem: path for path in sorted(SCRIPTS.glob("*.py")) if not path.stem.startswith("_")}
    return {name: found[name] for name in dict.fromkeys((*FIRST, *found)) if name in found}


def overview() -> str:
    """All commands, a line each."""
    return "\n\n".join((
        layout.usage(CONSOLE, "COMMAND", "[arguments and options of the command]"),
        "Reinforcement learning for masked diffusion language models.",
        layout.block("commands:", [(name, summary(path)) for name, path in commands().items()]),
        layout.block("options:", OPTIONS.items()),
        layout.folded(f"`{CONSOLE} COMMAND --help` has the options of a command."),
    ))  # fmt: skip


def summary(path: Path) -> str:
    """The first line of a script's docstring, which is not run for it."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def installed() -> str:
    """The version of the package; of a checkout that is not installed, what its pyproject.toml says."""
    try:
        return version("trajectory-nelbo")
    except PackageNotFoundError:
        text = (SCRIPTS.parent / "pyproject.toml").read_text(encoding="utf-8")
        return re.findall(r'^version = "(.*)"', text, re.MULTILINE)[0]


def _advice(name: str) -> str:
    close = difflib.get_close_matches(name, commands(), n=1)
    return f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(commands())}"
