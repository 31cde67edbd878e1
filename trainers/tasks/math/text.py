r"""Texts of mathematical problems: the boxes of a solution, and when two problems are the same text.

Nouns: a *box* is \boxed{...}, with braces that may nest, or TeX's short form of one character, \boxed 5. An escaped
brace, \{, is a character.
"""

import re
import unicodedata
from dataclasses import dataclass

MARK = re.compile(r"\\boxed(?![A-Za-z])\s*(?:(?P<open>\{)|(?P<short>[^\s{}\\$]))|\\.|[{}]", re.DOTALL)
# What may follow the last box of a solution: the end of its formula, of its sentence and of its text.
ENDING = re.compile(r"(?:[\s.$]|\\[)\]]|\\end\{[a-z]+\*?\})*")
# What does not show, or only as space, or as the frame of a formula.
INVISIBLE = re.compile(r"\\[,;:!> ()\[\]]|\\(?:quad|qquad|left|right|displaystyle)(?![a-z])|[\s~$]")
FRACTION = re.compile(r"\\[dt]frac(?![a-z])")


@dataclass(frozen=True)
class Boxes:
    """The boxes of a text.

    Args:
        contents: of each box that is closed, in the order of their ends.
        opened: how many there are, closed or not.
        is_last: whether nothing but the end of a formula and a sentence follows the last closed one.
    """

    contents: tuple[str, ...]
    opened: int
    is_last: bool


def find_boxes(text: str) -> Boxes:
    """Read all boxes of a text in one pass, however deep they nest."""
    contents: list[str] = []
    open_at: list[int | None] = []  # where the content of each open brace starts; None: of no box
    opened = end = 0
    for mark in MARK.finditer(text):
        if mark["open"] or mark["short"]:
            opened += 1
        if mark["short"]:
            contents.append(mark["short"])
            end = mark.end()
        elif mark["open"]:
            open_at.append(mark.end())
        elif mark[0] == "{":
            open_at.append(None)
        elif mark[0] == "}" and open_at:
            start = open_at.pop()
            if start is not None:
                contents.append(text[start : mark.start()])
                end = mark.end()
    return Boxes(tuple(contents), opened, bool(contents) and ENDING.fullmatch(text, end) is not None)


def key_of(problem: str) -> str:
    """The text of a problem without case, spacing, LaTeX's spacing and the size of its brackets and fractions.

    Two problems with equal keys are the same problem. Others may be as well: nothing is known of their meaning.
    """
    text = unicodedata.normalize("NFKC", problem).casefold()
    return INVISIBLE.sub("", FRACTION.sub(r"\\frac", text))
