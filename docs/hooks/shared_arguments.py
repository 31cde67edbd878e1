"""Griffe extension: arguments that share a line of a docstring (``low, high: ends of the range``) get one each.

The docstrings of this project describe arguments of one kind together; griffe looks for an argument of that name.
"""

import re
from typing import Any

import griffe

SHARED = re.compile(r"^(?P<indent> +)(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)+):(?P<text>.*(?:\n(?P=indent) +.*)*)", re.MULTILINE)
SECTION = re.compile(r"^(?:Args|Attributes):\n(?:(?: +.*)?(?:\n|$))+", re.MULTILINE)


class SharedArguments(griffe.Extension):
    """Splits such lines in every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of a function, a class or a module."""
        if obj.docstring is not None:
            obj.docstring.value = split(obj.docstring.value)


def split(docstring: str) -> str:
    """The docstring with one entry an argument in its sections Args and Attributes."""
    return SECTION.sub(lambda section: SHARED.sub(_entries, section[0]), docstring)


def _entries(line: re.Match) -> str:
    return "\n".join(f"{line['indent']}{name}:{line['text']}" for name in line["names"].split(", "))
