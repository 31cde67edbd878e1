"""Grids of 4x4 sudoku: the rule, a solver that proves uniqueness, and which solutions are one under relabelling.

Nouns: a *grid* is a text of 16 cells row by row, "1" to "4" or "." for a blank; a *unit* is a row, a column or one of
the four 2x2 boxes; a *solution* is a grid without blanks whose units hold every digit once; the *class* of a solution
is what exchanging digits can make of it, named by its member whose digits first appear in the order 1, 2, 3, 4.

There are 288 solutions in 12 classes of 24. Digits and places together (rows within a band, bands, columns likewise,
transposition) leave 2 kinds, of 96 and 192 solutions.
"""

from collections.abc import Iterator
from itertools import islice

SIDE = 4
CELLS = SIDE * SIDE
DIGITS = "1234"
BLANK = "."
FEWEST_CLUES = 4  # no three clues have a unique solution; tests/trainers/tasks/sudoku/test_grids.py tries them all

ROWS = [tuple(range(SIDE * row, SIDE * row + SIDE)) for row in range(SIDE)]
COLUMNS = list(zip(*ROWS, strict=True))
BOXES = [(corner, corner + 1, corner + SIDE, corner + SIDE + 1) for corner in (0, 2, 2 * SIDE, 2 * SIDE + 2)]
UNITS = (*ROWS, *COLUMNS, *BOXES)
PEERS = [tuple({peer for unit in UNITS if cell in unit for peer in unit} - {cell}) for cell in range(CELLS)]


def is_consistent(grid: str) -> bool:
    """Whether no unit holds a digit twice."""
    return all(grid[cell] == BLANK or all(grid[peer] != grid[cell] for peer in PEERS[cell]) for cell in range(CELLS))


def solutions(grid: str) -> Iterator[str]:
    """Every solution of a grid, in ascending order; none where its clues contradict one another."""
    if is_consistent(grid):
        yield from _filled(grid)


def _filled(grid: str) -> Iterator[str]:
    cell = grid.find(BLANK)
    if cell < 0:
        yield grid
        return
    taken = {grid[peer] for peer in PEERS[cell]}
    for digit in DIGITS:
        if digit not in taken:
            yield from _filled(grid[:cell] + digit + grid[cell + 1 :])


def unique_solution(grid: str) -> str | None:
    """The solution of a grid that has exactly one, else None: the search goes on until it has a second."""
    found = list(islice(solutions(grid), 2))
    return found[0] if len(found) == 1 else None


def keeps_clues(grid: str, puzzle: str) -> bool:
    """Whether a grid has the digits of a puzzle wherever the puzzle has one."""
    return all(clue in (BLANK, cell) for cell, clue in zip(grid, puzzle, strict=True))


def class_of(solution: str) -> str:
    """The class of a solution: its digits renamed in the order of their first appearance."""
    first = dict.fromkeys(solution)
    return solution.translate(str.maketrans("".join(first), DIGITS))


def in_rows(grid: str) -> str:
    """A grid as it is shown: "1234 3412 2143 4321"."""
    return " ".join(grid[start : start + SIDE] for start in range(0, CELLS, SIDE))
