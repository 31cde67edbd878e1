"""Two columns of text that survive a terminal of 80 columns, and a pipe."""

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable
from typing import Any

WIDEST = 100  # lines beyond are hard to read
LEFT = 22  # columns of names


def show(text: str) -> None:
    """Print a text whose reader may have seen enough, as `head` has; the command then ends without a word."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it ends
        raise SystemExit(0) from None


def width() -> int:
    """Columns of a line: the terminal's less one, as some wrap a full one; 79 in a pipe."""
    return min(shutil.get_terminal_size().columns - 1, WIDEST)


def folded(text: str, indent: int = 0) -> str:
    """One paragraph, its lines broken between words."""
    margin = " " * indent
    return textwrap.fill(
        " ".join(text.split()),
        width=max(width(), indent + 20),
        initial_indent=margin,
        subsequent_indent=margin,
        break_long_words=False,
        break_on_hyphens=False,
    )


def entry(name: str, text: str) -> str:
    """A name with its explanation beside it, or below where the name is long."""
    left, right = f"  {name}", folded(text, LEFT)
    if len(left) > LEFT - 2:
        return f"{left}\n{right}".rstrip()
    return (left + right[len(left) :]).rstrip()


def block(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """A title and an entry a row; empty where there is no row."""
    entries = [entry(name, text) for name, text in rows]
    return "\n".join([title, *entries]) if entries else ""


def usage(*words: str) -> str:
    """The line that says how a command is called; continued lines stand under its first word."""
    words = tuple(word.replace(" ", "\0") for word in words)  # what belongs together stays on one line
    text = textwrap.fill(
        " ".join(("usage:", *words)), width=width(), subsequent_indent=" " * 11, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return text.replace("\0", " ")


def notes(text: str, swaps: Iterable[tuple[str, str]] = ()) -> str:
    """The rest of a docstring: paragraphs folded, and examples, which are indented, broken as a shell may read them.

    Args:
        text: its lines, less the first.
        swaps: what stands in it, and what is to stand there.
    """
    for old, new in swaps:
        text = text.replace(old, new)
    shown = []
    for paragraph in text.strip("\n").split("\n\n"):
        if paragraph.startswith("    "):
            shown.append("\n".join(map(_example, paragraph.splitlines())))
        else:
            shown.append(folded(paragraph))
    return "\n\n".join(part for part in shown if part.strip())


def _example(line: str) -> str:
    """A command of one line, or of several that end in a backslash."""
    together = re.sub(r"(--\S+) (?!-)", "\\1\0", line.strip())  # an option and its value
    lines = textwrap.wrap(
        together, width=width() - 6, initial_indent="  ", subsequent_indent=" " * 6, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return " \\\n".join(lines).replace("\0", " ")


def explained(text: str, allowed: Iterable[Any] = (), default: Any = None) -> str:
    """A help text with the values that are allowed and the default, where there is one."""
    names = ", ".join(map(shown, allowed))
    return " ".join(
        filter(None, (text, names and f"One of: {names}.", "" if default is None else f"Default: {shown(default)}."))
    )


def shown(value: Any) -> str:
    """A value as it is written on a command line."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return " ".join(map(shown, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if str(value) else "''"
