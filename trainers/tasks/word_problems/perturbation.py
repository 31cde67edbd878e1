"""Copies of a word problem with other numbers, whose solution is computed again: `tracing` finds what each of them is.

A copy keeps the order of the variables, all of them within half and twice the old value, positive results (whole where
they were whole, also within an expression), and the truth of what stands as a plain equation in the text. All its
annotations are true and the last one gives the answer.
"""

import random
import re
from collections.abc import Iterator
from fractions import Fraction

from trainers.tasks.arithmetic import ANNOTATION, parse, tokenize, value_of
from trainers.tasks.word_problems.problems import WordProblem
from trainers.tasks.word_problems.tracing import Text, Untraceable, trace

MAX_DRAWS = 100  # of new numbers for one problem; a division rarely comes out even

_OPERAND = r"\(?\$?[0-9][0-9,.]*\)?"
_OPERATOR = r"[-+*/x\N{MULTIPLICATION SIGN}]"
EQUATION = re.compile(rf"({_OPERAND}(?:\s*{_OPERATOR}\s*{_OPERAND})+)\s*=\s*\$?([0-9][0-9,]*(?:\.[0-9]+)?)")


def perturbed(problem: WordProblem, rng: random.Random) -> Iterator[WordProblem]:
    """Draw distinct copies; the first ones do not depend on how many are taken.

    Raises:
        Untraceable: the problem cannot be copied.
    """
    traced = trace(problem)
    old_operations = traced.compute(traced.values[: traced.num_variables])[1]
    if min(old_operations) <= 0:
        raise Untraceable("a result is not positive")
    seen = {tuple(traced.values)}
    for _ in range(MAX_DRAWS):
        try:
            values, operations = traced.compute(_draw(traced.values[: traced.num_variables], rng))
        except ZeroDivisionError:
            continue
        if tuple(values) in seen or not all(map(_is_alike, old_operations, operations)):
            continue
        seen.add(tuple(values))
        question, solution = _write(traced.question, values), _write(traced.solution, values)
        if question is None or solution is None or equation_truths(solution) != equation_truths(problem.solution):
            continue
        yield WordProblem(question, solution, problem.cluster)


def equation_truths(solution: str) -> list[bool]:
    """Whether each equation that stands in the text outside annotations, such as "2 x 16 = $32", is true."""
    truths = []
    for expression, result in EQUATION.findall(ANNOTATION.sub("", solution)):
        term = parse(tokenize(re.sub(r"[x\N{MULTIPLICATION SIGN}]", "*", re.sub(r"[$,]", "", expression))))
        value = None if term is None else value_of(term)
        truths.append(value == Fraction(result.replace(",", "")))
    return truths


def _draw(variables: list[Fraction], rng: random.Random) -> list[Fraction]:
    """New values in the old order, each in the half to double of the old one, in steps as round as that one."""
    drawn = []
    for value in map(int, variables):
        unit = next(unit for unit in (1000, 100, 10, 5, 1) if value % unit == 0 and (value >= 4 * unit or unit == 1))
        low, high = -(-value // (2 * unit)), 2 * value // unit
        drawn.append(Fraction(max(2, unit * rng.randint(low, high))))
    # Sorting moves no value out of its range, as the ranges rise with the old values.
    return sorted(drawn)


def _is_alike(old: Fraction, new: Fraction) -> bool:
    """Whether a result is positive, whole if the old one was, and 1 only if the old one was: "1 apple"."""
    return new > 0 and (old.denominator != 1 or new.denominator == 1) and (old == 1) == (new == 1)


def _write(text: Text, values: list[Fraction]) -> str | None:
    parts = [part if isinstance(part, str) else part.write(values[part.quantity]) for part in text]
    return None if None in parts else "".join(filter(None, parts))
