"""Instances of Countdown, and expressions as a completion writes them.

Nouns: an *instance* is the multiset of numbers with the target, "3 4 7=49"; an *expression* is an infix text of
positive whole numbers, + - * / and parentheses, with at least one operation.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from trainers.tasks.arithmetic import OPERATIONS, parse, value_of

TRAIN_SIZE = 16384  # embedded problems; a real training file is used whole

MAX_NUMBER_DIGITS = 9

NUMBER = re.compile(rf"[1-9][0-9]{{0,{MAX_NUMBER_DIGITS - 1}}}")
# Anything glued to a number (a letter, a decimal part, a foreign digit) spoils it. Linear time: nothing to backtrack
# into, as each part starts with a character that the one before it cannot take.
TOKEN = re.compile(r"\w+(?:[.,]\d+)*|\n|\S")
ANSWER = re.compile(rf"({NUMBER.pattern}(?: {NUMBER.pattern})+)=({NUMBER.pattern})")


@dataclass(frozen=True)
class Instance:
    """Numbers in ascending order, and the target; the unit that splits are disjoint in."""

    numbers: tuple[int, ...]
    target: int

    def __str__(self) -> str:
        return f"{' '.join(map(str, self.numbers))}={self.target}"

    def question(self) -> str:
        """The task in words: "Use 3, 4, 7 to get 49." for these numbers and this target."""
        return f"Use {', '.join(map(str, self.numbers))} to get {self.target}."

    def solved_by(self, tokens: list[str]) -> bool:
        """Whether the tokens are an expression of exactly these numbers with the target as value."""
        numbers = sorted(int(token) for token in tokens if NUMBER.fullmatch(token))
        return tuple(numbers) == self.numbers and evaluate(tokens) == self.target


def read_instance(answer: str) -> Instance:
    """The instance that an `answer` column names.

    Raises:
        ValueError: it is not an instance.
    """
    match = ANSWER.fullmatch(answer)
    if match is None:
        raise ValueError(f"answer = {answer!r}: expected numbers and a target such as '3 4 7=49'")
    return Instance(tuple(sorted(map(int, match[1].split()))), int(match[2]))


def tokens_of(text: str) -> list[str]:
    """Numbers, signs and whatever else stands in a text."""
    return TOKEN.findall(text)


def last_expression(text: str) -> list[str]:
    """Return the tokens of the last expression in a text, empty if there is none."""
    runs: list[list[str]] = [[]]
    for token in tokens_of(text):
        if token in OPERATIONS or token in "()" or NUMBER.fullmatch(token):
            runs[-1].append(token)
        else:
            runs.append([])
    return next((run for run in reversed(runs) if evaluate(run) is not None), [])


def evaluate(tokens: list[str]) -> Fraction | None:
    """Value of an expression; None for anything else, a division by zero or too long a text included."""
    if not all(token in OPERATIONS or token in "()" or NUMBER.fullmatch(token) for token in tokens):
        return None
    term = parse(tokens)
    return None if term is None else value_of(term)
