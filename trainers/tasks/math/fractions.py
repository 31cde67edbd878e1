r"""Problems of two fractions, "Compute \frac{3}{4}+\frac{5}{6}.", with exact answers: a seeded generator.

Nouns: an *instance* is the operation with its two fractions, in ascending order where they may be exchanged; it is
what splits are disjoint in. Fractions are in lowest terms, so that one is written in one way.
"""

import hashlib
import math
import operator
import random
from dataclasses import dataclass
from fractions import Fraction

from trainers.tasks.generating import draw_split

OPERATIONS = {"+": operator.add, "-": operator.sub, "\\cdot ": operator.mul, "\\div ": operator.truediv}
COMMUTATIVE = ("+", "\\cdot ")


@dataclass(frozen=True)
class FractionProblem:
    """`left sign right`, all positive."""

    left: Fraction
    sign: str
    right: Fraction

    @property
    def instance(self) -> str:
        """The problem whichever way round it is written."""
        exchanged = self.sign in COMMUTATIVE and self.right < self.left
        first, second = (self.right, self.left) if exchanged else (self.left, self.right)
        return f"{first}{self.sign.strip()}{second}"

    def problem(self) -> str:
        """The problem in words."""
        return f"Compute {in_latex(self.left)}{self.sign}{in_latex(self.right)}."

    def answer(self) -> str:
        """Its value in lowest terms, LaTeX."""
        return in_latex(OPERATIONS[self.sign](self.left, self.right))


def in_latex(value: Fraction) -> str:
    r"""A number as MATH writes it: 3, -\frac{1}{2}."""
    if value.denominator == 1:
        return str(value)
    return f"{'-' if value < 0 else ''}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def split_of(problem: FractionProblem) -> str:
    """Assign an instance to train (80%), validation (10%) or test (10%), the same in every run and for every seed."""
    digest = hashlib.sha256(f"fractions|{problem.instance}".encode()).digest()
    return {8: "validation", 9: "test"}.get(int.from_bytes(digest[:8], "big") % 10, "train")


def fractions_up_to(max_term: int) -> list[Fraction]:
    """Fractions that are no whole number, in lowest terms, whose numerator and denominator are at most `max_term`."""
    terms = range(1, max_term + 1)
    return [Fraction(above, below) for below in terms[1:] for above in terms if math.gcd(above, below) == 1]


def generate(split: str, size: int, *, seed: int, max_term: int) -> list[FractionProblem]:
    """Draw the problems of one split: operation and fractions uniform. One may repeat in train only.

    Raises:
        ValueError: the split has fewer distinct problems than a held-out `size`.
    """
    pool, signs = fractions_up_to(max_term), tuple(OPERATIONS)

    def draw(rng: random.Random) -> FractionProblem | None:
        problem = FractionProblem(rng.choice(pool), rng.choice(signs), rng.choice(pool))
        return problem if split_of(problem) == split else None

    return draw_split(draw, split, size, seed=seed, described=f"problems with max_term = {max_term}")
