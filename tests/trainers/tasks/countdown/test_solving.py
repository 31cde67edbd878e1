"""The search for a reference expression, against brute force; how terms are written."""

import itertools
from fractions import Fraction

import pytest
from trees import trees

from trainers.tasks.countdown import solving, task
from trainers.tasks.countdown.instances import Instance


@pytest.mark.parametrize("numbers", [(2, 3), (1, 1, 2), (3, 4, 7), (4, 4, 20), (3, 8, 19)])
def test_solver_finds_an_expression_exactly_where_brute_force_does(numbers):
    values = {value for order in itertools.permutations(numbers) for _, value in trees(order)}
    for target in range(1, 101):
        instance = Instance(tuple(sorted(numbers)), target)
        expression = solving.solve(instance)
        assert (expression is not None) == (target in values)
        assert expression is None or task.verify(expression, str(instance)).strict


def test_solver_goes_through_fractions_where_whole_numbers_do_not_suffice():
    assert solving.solve(Instance((3, 3, 8, 8), 24)) == "8/(3-8/3)"


def test_terms_are_written_with_the_parentheses_that_they_need_and_no_others():
    a, b, c = (solving.Term(Fraction(n)) for n in (9, 6, 2))
    assert str(a.combined("-", b.combined("-", c))) == "9-(6-2)"
    assert str(a.combined("-", b).combined("-", c)) == "9-6-2"
    assert str(a.combined("/", b.combined("*", c))) == "9/(6*2)"
    assert str(a.combined("*", b.combined("/", c))) == "9*6/2"
    assert str(a.combined("+", b.combined("-", c))) == "9+6-2"
    assert str(a.combined("+", b).combined("*", c)) == "(9+6)*2"
    assert str(a.combined("*", b).combined("+", c)) == "9*6+2"
