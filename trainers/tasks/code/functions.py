"""Generated programming problems: small functions of two whole numbers, described in words, with examples.

Nouns: a *shape* is an expression in a, b and up to two constants; a *function* is a shape with its constants; its
*behaviour* is the table of its values on a grid, and what splits are disjoint in: a + a and 2*a are the same problem.

Convention: the prompt is the function up to its "return", in HumanEval's manner (Chen et al. 2021, arXiv:2107.03374),
and the completion is the expression. The examples in the prompt are not among the tests.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from trainers.tasks.generating import draw_split

NAME_OF_FUNCTION = "f"
CONSTANTS = range(2, 21)
EXAMPLES, TESTS = 2, 6
SALT = "code|functions"  # of the split: never change it

WIDE, NARROW = range(-6, 32), (-3, 0, 2, 7)  # beyond all constants, so that max(a, 19) and max(a, 20) differ
GRID = sorted({pair for x in WIDE for y in NARROW for pair in ((x, y), (y, x))})


@dataclass(frozen=True)
class Shape:
    """An expression.

    Args:
        code: in Python, with {c} and {d} in the places of constants.
        words: what it returns.
        value: of a, b, c and d.
    """

    code: str
    words: str
    value: Callable[[int, int, int, int], int]


SHAPES = (
    Shape("a + b + {c}", "the sum of a, b and {c}", lambda a, b, c, d: a + b + c),
    Shape("a - b + {c}", "a minus b, plus {c}", lambda a, b, c, d: a - b + c),
    Shape("b - a - {c}", "b minus a, minus {c}", lambda a, b, c, d: b - a - c),
    Shape("a*b + {c}", "a times b, plus {c}", lambda a, b, c, d: a * b + c),
    Shape("a*b - {c}", "a times b, minus {c}", lambda a, b, c, d: a * b - c),
    Shape("a*a + {c}", "the square of a, plus {c}", lambda a, b, c, d: a * a + c),
    Shape("b*b - {c}*a", "the square of b, minus {c} times a", lambda a, b, c, d: b * b - c * a),
    Shape("max(a, b) + {c}", "the larger of a and b, plus {c}", lambda a, b, c, d: max(a, b) + c),
    Shape("min(a, b) - {c}", "the smaller of a and b, minus {c}", lambda a, b, c, d: min(a, b) - c),
    Shape("max(a, {c})", "the larger of a and {c}", lambda a, b, c, d: max(a, c)),
    Shape("min(b, {c})", "the smaller of b and {c}", lambda a, b, c, d: min(b, c)),
    Shape("abs(a - b) + {c}", "the distance of a and b, plus {c}", lambda a, b, c, d: abs(a - b) + c),
    Shape("abs(a - {c})", "the distance of a and {c}", lambda a, b, c, d: abs(a - c)),
    Shape("(a + b) % {c}", "the remainder of a plus b by {c}", lambda a, b, c, d: (a + b) % c),
    Shape("a // {c} + b", "a divided by {c} and rounded down, plus b", lambda a, b, c, d: a // c + b),
    Shape("a if a > {c} else b", "a if it is above {c}, and b otherwise", lambda a, b, c, d: a if a > c else b),
    Shape("{c}*a + {d}*b", "{c} times a, plus {d} times b", lambda a, b, c, d: c * a + d * b),
    Shape("{c}*a - {d}*b", "{c} times a, minus {d} times b", lambda a, b, c, d: c * a - d * b),
    Shape("{c}*a - {d}", "{c} times a, minus {d}", lambda a, b, c, d: c * a - d),
    Shape("{c}*(b + {d})", "{c} times the sum of b and {d}", lambda a, b, c, d: c * (b + d)),
    Shape("max(a, {c}) + {d}", "the larger of a and {c}, plus {d}", lambda a, b, c, d: max(a, c) + d),
    Shape("(a*b + {c}) % {d}", "the remainder of a times b plus {c} by {d}", lambda a, b, c, d: (a * b + c) % d),
    Shape("({c}*a + b) // {d}", "{c} times a plus b, divided by {d}, down", lambda a, b, c, d: (c * a + b) // d),
)


@dataclass(frozen=True)
class Function:
    """A shape, by its place in `SHAPES`, with its constants."""

    shape: int
    c: int
    d: int

    def __call__(self, a: int, b: int) -> int:
        """The value at two whole numbers."""
        return SHAPES[self.shape].value(a, b, self.c, self.d)

    @property
    def expression(self) -> str:
        """The function's body in Python, with its constants filled in."""
        return SHAPES[self.shape].code.format(c=self.c, d=self.d)

    def pairs(self) -> list[tuple[int, int]]:
        """Arguments of the examples and of the tests, the same ones whenever it is asked, without two equal."""
        rng = random.Random(f"{SALT}|{self.expression}")
        while True:
            drawn = rng.sample(GRID, EXAMPLES + TESTS)
            if len({self(a, b) for a, b in drawn[EXAMPLES:]}) > 1:  # no constant passes all tests
                return drawn

    def prompt(self) -> str:
        """The function up to its "return", with the words and `EXAMPLES` examples."""
        examples = "".join(f"    # {self._call(a, b)} == {self(a, b)}\n" for a, b in self.pairs()[:EXAMPLES])
        words = SHAPES[self.shape].words.format(c=self.c, d=self.d)
        return f'def {NAME_OF_FUNCTION}(a, b):\n    """Return {words}."""\n{examples}    return'

    def tests(self) -> tuple[str, ...]:
        """`TESTS` statements that raise for a wrong value; none of them is an example of the prompt."""
        return tuple(f"assert {self._call(a, b)} == {self(a, b)}" for a, b in self.pairs()[EXAMPLES:])

    def _call(self, a: int, b: int) -> str:
        return f"{NAME_OF_FUNCTION}({a}, {b})"


@lru_cache(maxsize=2**14)
def behaviour(function: Function) -> str:
    """A digest of the table of values."""
    table = ",".join(str(function(a, b)) for a, b in GRID)
    return hashlib.sha256(f"{SALT}|{table}".encode()).hexdigest()


def split_of(function: Function) -> str:
    """Assign a behaviour to train (80%), validation (10%) or test (10%), the same in every run and for every seed."""
    return {8: "validation", 9: "test"}.get(int(behaviour(function), 16) % 10, "train")


def generate(split: str, size: int, *, seed: int) -> list[Function]:
    """Draw the functions of one split; a behaviour may repeat in train only.

    Raises:
        ValueError: a held-out split has fewer behaviours than `size`.
    """
    drawn: dict[str, Function] = {}

    def draw(rng: random.Random) -> str | None:
        function = Function(rng.randrange(len(SHAPES)), rng.choice(CONSTANTS), rng.choice(CONSTANTS))
        if split_of(function) != split:
            return None
        return behaviour(drawn.setdefault(behaviour(function), function))

    return [drawn[known] for known in draw_split(draw, split, size, seed=seed, described="functions")]
