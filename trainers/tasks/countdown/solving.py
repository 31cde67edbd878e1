"""The search for a reference expression of an instance, and how an expression is written.

Results in between are positive and whole where that is possible, as in the television game.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import combinations

from trainers.tasks.arithmetic import OPERATIONS
from trainers.tasks.countdown.instances import TRAIN_SIZE, Instance

MAX_OPERATIONS = 3  # four numbers: the search for a reference expression stays within milliseconds

PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "": 3}  # "" is a bare number


@dataclass(frozen=True)
class Term:
    """A value with how it was made: an operation on two terms, or a given number (no sign)."""

    value: Fraction
    sign: str = ""
    operands: "tuple[Term, ...]" = ()

    def combined(self, sign: str, right: "Term") -> "Term":
        """`self sign right`."""
        return Term(OPERATIONS[sign](self.value, right.value), sign, (self, right))

    def __str__(self) -> str:
        """The expression, with the parentheses that it needs and no others."""
        if not self.sign:
            return str(self.value)
        left, right = self.operands
        rank = PRECEDENCE[self.sign]
        # a-(b+c) and a/(b*c) keep parentheses among equals; a+(b-c) and a*(b/c) do not need them
        return f"{left._inside(rank)}{self.sign}{right._inside(rank + (self.sign in '-/'))}"

    def _inside(self, rank: int) -> str:
        return f"({self})" if PRECEDENCE[self.sign] < rank else str(self)


def leaves_of(numbers: tuple[int, ...]) -> list[Term]:
    """The given numbers as terms."""
    return [Term(Fraction(number)) for number in numbers]


def whole_results(one: Term, other: Term) -> list[Term]:
    """Every operation on two positive terms, larger first, whose result is a positive whole number."""
    left, right = (one, other) if one.value >= other.value else (other, one)
    allowed = {"+": True, "-": left.value > right.value, "*": True, "/": left.value % right.value == 0}
    return [left.combined(sign, right) for sign in OPERATIONS if allowed[sign]]


def _all_results(one: Term, other: Term) -> list[Term]:
    """Every operation on two terms in either order."""
    orders = ((one, other), (other, one))
    return [left.combined(sign, right) for left, right in orders for sign in OPERATIONS if sign != "/" or right.value]


def _reachable(terms: list[Term], results: Callable[[Term, Term], list[Term]]) -> Iterator[Term]:
    """Every term that uses all the given ones."""
    if len(terms) == 1:
        yield terms[0]
    for i, j in combinations(range(len(terms)), 2):
        others = [term for k, term in enumerate(terms) if k not in (i, j)]
        for term in results(terms[i], terms[j]):
            yield from _reachable([*others, term], results)


@lru_cache(maxsize=TRAIN_SIZE)
def solve(instance: Instance) -> str | None:
    """Return a right expression, the same one for equal instances, or None if there is none.

    Results in between are positive and whole where that is possible; additions are tried first.
    """
    leaves = leaves_of(instance.numbers)
    found = (t for results in (whole_results, _all_results) for t in _reachable(leaves, results))
    return next((str(term) for term in found if term.value == instance.target), None)
