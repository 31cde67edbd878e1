"""Griffe extension: two habits of this project's docstrings, put as griffe and Markdown read them.

- Arguments of one kind share a line (``low, high: ends of the range``); griffe looks for an argument of that name.
- A trainer lists the methods that it redefines, a line each (``name (Class): what for``); Markdown joins such lines.
"""

import re
from typing import Any

import griffe

SECTION = re.compile(r"^(?:Args|Attributes):\n(?:(?: +.*)?(?:\n|$))+", re.MULTILINE)
SHARED = re.compile(
    r"^(?P<indent> +)(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)+):(?P<text>.*(?:\n(?P=indent) +.*)*)", re.MULTILINE
)
REDEFINED = re.compile(r"^(\w+) \((\w+)\): ", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called by griffe for each function, class, attribute and module."""
        if obj.docstring is not None:
            obj.docstring.value = rewrite(obj.docstring.value)


def rewrite(docstring: str) -> str:
    """The docstring with an entry an argument, and redefined methods as a list."""
    docstring = SECTION.sub(lambda section: SHARED.sub(_entries, section[0]), docstring)
    return REDEFINED.sub(r"- `\1` (`\2`): ", docstring)


def _entries(line: re.Match) -> str:
    return "\n".join(f"{line['indent']}{name}:{line['text']}" for name in line["names"].split(", "))
