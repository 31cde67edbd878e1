"""What tests of the task sudoku share."""

import itertools

import pytest
from sudoku_symmetries import is_solution


@pytest.fixture(scope="module")
def all_solutions() -> list[str]:
    rows = ["".join(row) for row in itertools.permutations("1234")]
    halves = [a + b for a, b in itertools.product(rows, repeat=2) if {*a[:2], *b[:2]} == {*a[2:], *b[2:]} == {*a}]
    return [grid for grid in map("".join, itertools.product(halves, repeat=2)) if is_solution(grid)]
