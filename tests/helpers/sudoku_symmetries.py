"""Grids of 4x4 sudoku by the rule alone, without the tables of the code under test."""

import itertools


def plain(grid: str) -> str:
    return grid.replace(" ", "")


def is_solution(grid: str) -> bool:
    """The rule, written without the tables of the code under test."""
    rows = [grid[4 * row : 4 * row + 4] for row in range(4)]
    columns = [grid[column::4] for column in range(4)]
    boxes = [rows[r][c : c + 2] + rows[r + 1][c : c + 2] for r in (0, 2) for c in (0, 2)]
    return all(sorted(unit) == list("1234") for unit in (*rows, *columns, *boxes))


def renamed(grid: str, digits: str) -> str:
    return grid.translate(str.maketrans("1234", digits))


def every_renaming(grid: str) -> set[str]:
    return {renamed(grid, "".join(digits)) for digits in itertools.permutations("1234")}


def every_place_symmetry():
    """Functions that move the cells: swaps of rows in a band, of bands, of columns likewise, and transposition."""
    orders = [(*one, *other) for pair in ([(0, 1), (2, 3)],) for one, other in _bands(pair)]
    for rows, columns, transposed in itertools.product(orders, orders, (False, True)):
        cells = [4 * c + r if transposed else 4 * r + c for r in rows for c in columns]
        yield lambda grid, cells=cells: "".join(grid[cell] for cell in cells)


def _bands(pair):
    for first, second in itertools.permutations(pair):
        yield from itertools.product(itertools.permutations(first), itertools.permutations(second))
