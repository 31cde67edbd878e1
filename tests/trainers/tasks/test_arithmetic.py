"""The grammar of annotations agrees with arithmetic, refuses everything else, and runs no text."""

import operator
import random
from fractions import Fraction

import pytest

from trainers.tasks.arithmetic import MAX_EXPRESSION_TOKENS, annotations_of, parse, tokenize, value_of

APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def draw(rng: random.Random, depth: int) -> tuple[str, Fraction, int]:
    """A random expression with its value and how many operations it has; parentheses everywhere."""
    if depth == 0 or rng.random() < 0.2:
        text = rng.choice(["3", "18", "2.5", ".5", "100", "0.25"])
        return text, Fraction(text), 0
    (left, a, n), (right, b, m) = draw(rng, depth - 1), draw(rng, depth - 1)
    sign = rng.choice("+-*/" if b else "+-*")
    return f"({left}{sign}{right})", APPLY[sign](a, b), n + m + 1


@pytest.mark.parametrize("seed", range(50))
def test_a_parenthesised_expression_has_the_value_it_was_built_with(seed):
    text, value, operations = draw(random.Random(seed), 4)
    term = parse(tokenize(text))
    assert (term is None) == (operations == 0)
    if term is not None:
        assert value_of(term) == value
        assert len(term.values(term.numbers())) == operations


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1+2*3", 7),
        ("(1+2)*3", 9),
        ("10-3-2", 5),
        ("48/4/2", 6),
        ("8-2+1", 7),
        (" 2 * ( 3 + 4 ) ", 14),
        ("0.1+0.2", Fraction(3, 10)),
        ("1/3*3", 1),
        ("1/(2-2)", None),
    ],
)
def test_signs_bind_as_in_school(text, value):
    term = parse(tokenize(text))
    assert term is not None and value_of(term) == value


TOO_LONG = ["9" * 40 + "+1", "(" * 200 + "1+1" + ")" * 200, "+".join("1" * MAX_EXPRESSION_TOKENS)]
NO_EXPRESSIONS = ["", "3", "(3)", "3+", "+3+4", "-3+4", "3 4", "3+4)", "(3+4", "3**4", "3//4", "3%4", "1e3+1", "x+1"]


@pytest.mark.parametrize("text", [*NO_EXPRESSIONS, *TOO_LONG, "3+4=7", "__import__('os')"])
def test_anything_else_is_no_expression(text):
    assert parse(tokenize(text)) is None


def test_annotations_are_read_in_order_and_judged():
    right, wrong = annotations_of("a <<2*3=6>>6, b <<6/4=1.4>>\n#### 1.4") or ()
    assert (right.tokens, right.result, right.is_true()) == (("2", "*", "3"), "6", True)
    assert not wrong.is_true()
    assert annotations_of("no note") == []
    assert annotations_of("<<2*3=6>> <<2x3=6>>") is None, "one that cannot be read spoils all"
    assert annotations_of("<<2*3=six>>") is None
