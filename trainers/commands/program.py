"""How this process was called: what usage lines begin with, and what a record says to repeat it."""

import shlex
import sys
from pathlib import Path

CONSOLE = "trajectory-nelbo"

_called: list[str] = []  # the words that stand for the script, where it was not called by its path


def call_it(*words: str) -> None:
    """Say that the script was called by these words; the console does, before it runs one."""
    _called[:] = words


def program() -> str:
    """What a usage line begins with: ``train.py`` or ``trajectory-nelbo train``."""
    return " ".join(_called) or Path(sys.argv[0]).name


def command_line() -> str:
    """The command that started this process, for a shell; of several processes, without their launcher."""
    return shlex.join([*(_called or ["python", sys.argv[0]]), *sys.argv[1:]])
