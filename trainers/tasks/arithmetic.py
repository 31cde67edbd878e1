"""Arithmetic in texts: + - * / and parentheses over plain numbers, read by a small grammar in exact fractions.

Nouns: an *expression* is an infix text with at least one operation; an *annotation* is GSM8K's calculator note
"<<48/2=24>>" (Cobbe et al. 2021, arXiv:2110.14168), an expression with its result; a *term* is a parsed expression.

Convention: no text is ever handed to Python's eval(). Numbers carry no sign, and there is no unary minus.
"""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

OPERATIONS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
MAX_EXPRESSION_TOKENS = 100  # numbers, signs and parentheses; bounds the depth of the recursive parser

LITERAL = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,15})?|\.[0-9]{1,15}")
TOKEN = re.compile(rf"{LITERAL.pattern}|\S")
ANNOTATION = re.compile(r"<<([^<>=]*)=([^<>=]*)>>")


@dataclass(frozen=True)
class Term:
    """A number, or an operation on two terms.

    Args:
        sign: the operation; empty for a number.
        operands: the two terms of an operation.
        index: of a number, its place among the numbers of the expression, from the left.
        value: of a number, its value.
    """

    sign: str = ""
    operands: "tuple[Term, ...]" = ()
    index: int = 0
    value: Fraction = Fraction(0)

    def values(self, numbers: list[Fraction]) -> list[Fraction]:
        """Results of all operations with other numbers in the places of the literals; the last is that of the whole.

        Raises:
            ZeroDivisionError: a division by zero.
        """
        if not self.sign:
            return [numbers[self.index]]
        left, right = (operand.values(numbers) for operand in self.operands)
        below = [*(left if self.operands[0].sign else ()), *(right if self.operands[1].sign else ())]
        return [*below, OPERATIONS[self.sign](left[-1], right[-1])]

    def numbers(self) -> list[Fraction]:
        """The literals, from the left."""
        if not self.sign:
            return [self.value]
        return [number for operand in self.operands for number in operand.numbers()]


@dataclass(frozen=True)
class Annotation:
    """An expression and the result that is written behind it.

    Args:
        tokens: the expression's, as written.
        term: the expression.
        result: as written.
    """

    tokens: tuple[str, ...]
    term: Term
    result: str

    def is_true(self) -> bool:
        """Whether the expression has exactly the written result."""
        return value_of(self.term) == Fraction(self.result)


def tokenize(text: str) -> list[str]:
    """Numbers, and every other character that is not blank."""
    return TOKEN.findall(text)


def parse(tokens: list[str]) -> Term | None:
    """Read an expression; None for anything else, too long a text included."""
    if not 3 <= len(tokens) <= MAX_EXPRESSION_TOKENS or OPERATIONS.keys().isdisjoint(tokens):
        return None
    rest, numbers = tokens[::-1], [0]
    try:
        term = _sum(rest, numbers)
    except SyntaxError:
        return None
    return None if rest else term


def value_of(term: Term) -> Fraction | None:
    """Value of an expression; None where it divides by zero."""
    try:
        return term.values(term.numbers())[-1]
    except ZeroDivisionError:
        return None


def annotations_of(text: str) -> list[Annotation] | None:
    """Every annotation of a solution, in order; None if one of them cannot be read."""
    found = []
    for expression, result in ANNOTATION.findall(text):
        tokens = tokenize(expression)
        term = parse(tokens)
        if term is None or not LITERAL.fullmatch(result):
            return None
        found.append(Annotation(tuple(tokens), term, result))
    return found


# The grammar, one function a rule; each takes its tokens off the end of a reversed list and counts the numbers it saw.


def _sum(rest: list[str], seen: list[int]) -> Term:
    """By the rule sum = product {("+" | "-") product}."""
    term = _product(rest, seen)
    while rest and rest[-1] in ("+", "-"):
        term = Term(rest.pop(), (term, _product(rest, seen)))
    return term


def _product(rest: list[str], seen: list[int]) -> Term:
    """By the rule product = atom {("*" | "/") atom}."""
    term = _atom(rest, seen)
    while rest and rest[-1] in ("*", "/"):
        term = Term(rest.pop(), (term, _atom(rest, seen)))
    return term


def _atom(rest: list[str], seen: list[int]) -> Term:
    """By the rule atom = number | "(" sum ")"."""
    token = rest.pop() if rest else ""
    if token == "(":
        term = _sum(rest, seen)
        if rest and rest.pop() == ")":
            return term
    elif LITERAL.fullmatch(token):
        seen[0] += 1
        return Term(index=seen[0] - 1, value=Fraction(token))
    raise SyntaxError
