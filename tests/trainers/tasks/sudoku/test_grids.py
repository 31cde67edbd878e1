"""Grids and the solver: it finds every solution and no other, and classes are what renaming makes."""

import itertools
import random

import pytest
from sudoku_symmetries import every_renaming

from trainers.tasks.sudoku import grids


def test_there_are_288_solutions_and_the_solver_finds_exactly_these(all_solutions):
    assert len(all_solutions) == 288
    assert list(grids.solutions("." * 16)) == sorted(all_solutions)


def test_solver_finds_all_completions_and_no_others(all_solutions):
    rng = random.Random(0)
    for _ in range(200):
        grid = "".join(rng.choice([".", ".", digit]) for digit in rng.choice(all_solutions))
        expected = sorted(s for s in all_solutions if all(g in (".", d) for g, d in zip(grid, s, strict=True)))
        assert list(grids.solutions(grid)) == expected
        assert grids.unique_solution(grid) == (expected[0] if len(expected) == 1 else None)


@pytest.mark.parametrize("clues", ["11..............", "1...1...........", "1....1..........", "1" * 16])
def test_contradicting_clues_have_no_solution(clues):
    assert list(grids.solutions(clues)) == []


def test_three_clues_never_determine_a_solution_and_four_sometimes_do(all_solutions):
    """Up to renaming, which moves no clue: 12 solutions, all choices of cells."""
    choices = {n: [sum(1 << c for c in cells) for cells in itertools.combinations(range(16), n)] for n in (3, 4)}
    found = dict.fromkeys(choices, 0)
    for solution in {grids.class_of(s) for s in all_solutions}:
        agreeing = {
            sum((a == b) << c for c, (a, b) in enumerate(zip(solution, s, strict=True))) for s in all_solutions
        }
        agreeing.remove(2**16 - 1)  # the solution itself
        for count, clues in ((n, clues) for n in choices for clues in choices[n]):
            found[count] += not any(clues & common == clues for common in agreeing)
    assert found[3] == 0 < found[4]
    assert grids.FEWEST_CLUES == 4


def test_classes_are_what_renaming_the_digits_makes_of_one_solution(all_solutions):
    classes = {grid: grids.class_of(grid) for grid in all_solutions}
    assert len(set(classes.values())) == 12
    for grid, name in classes.items():
        assert {g for g, other in classes.items() if other == name} == every_renaming(grid)
        assert name in every_renaming(grid)
