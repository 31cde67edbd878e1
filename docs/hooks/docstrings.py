"""Griffe extension: habits of this project's docstrings, put as griffe and Markdown read them.

- Arguments of one kind share a line (``low, high: ends of the range``); griffe looks for an argument of that name.
- What stands for a keyword of ``**kwargs`` is described beside the others; griffe wants it in a section of its own.
- A trainer lists the methods that it redefines, a line each (``name (Class): what for``); Markdown joins such lines.
"""

import re
from typing import Any

import griffe

SECTION = re.compile(r"^(?P<title>Args|Attributes):\n(?P<entries>(?:(?: +.*)?(?:\n|$))+)", re.MULTILINE)
ENTRY = re.compile(r"^ {4}(?P<names>\S[^:(]*?)(?P<rest>(?: \(.*\))?:.*\n?(?:(?: {5,}.*)?(?:\n|$))*)", re.MULTILINE)
REDEFINED = re.compile(r"^(\w+) \((\w+)\): ", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites every docstring of a package before it is parsed."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Called by griffe when a package has been read."""
        rewrite_below(pkg)


def rewrite_below(parent: griffe.Object) -> None:
    """Rewrite the docstrings of an object and of what is defined in it."""
    if parent.docstring is not None:
        parent.docstring.value = rewrite(parent.docstring.value, keywords(parent))
    for member in parent.members.values():
        if isinstance(member, griffe.Object):
            rewrite_below(member)


def keywords(described: griffe.Object) -> set[str] | None:
    """The named arguments of something that takes any keyword besides; None: it takes no others."""
    if not isinstance(described, griffe.Class | griffe.Function):
        return None
    kinds = {argument.kind for argument in described.parameters}
    open_ended = griffe.ParameterKind.var_keyword in kinds
    return {argument.name for argument in described.parameters} if open_ended else None


def rewrite(docstring: str, named: set[str] | None = None) -> str:
    """The docstring with an entry an argument, keywords apart, and redefined methods as a list.

    Args:
        docstring: without the indentation of the code.
        named: the arguments, where any other keyword is taken as well.
    """

    def section(match: re.Match) -> str:
        entries = [
            (name, f"    {name}{entry['rest'].rstrip()}\n")
            for entry in ENTRY.finditer(match["entries"])
            for name in entry["names"].split(", ")
        ]
        own = [text for name, text in entries if named is None or name.lstrip("*") in named]
        others = [text for name, text in entries if text not in own]
        apart = ["\nKeyword Args:\n", *others] if others else []
        return "".join([f"{match['title']}:\n", *own, *apart, "\n"])

    return REDEFINED.sub(r"- `\1` (`\2`): ", SECTION.sub(section, docstring))
