"""Puzzles of 4x4 sudoku: a seeded generator, records of files, and the split that a puzzle belongs to.

Nouns: a *puzzle* is a grid with blanks and exactly one solution, which the solver of `trainers.tasks.sudoku.grids`
proves. Convention: no two splits share a class of solutions, see `trainers.tasks.sudoku`.
"""

import hashlib
import random
import re
from dataclasses import dataclass
from functools import lru_cache

from trainers.tasks.generating import draw_split
from trainers.tasks.sources import VALIDATION_SIZE
from trainers.tasks.sudoku.grids import BLANK, CELLS, DIGITS, SIDE, class_of, in_rows, solutions, unique_solution

HELD_OUT_CLASSES = 2  # of the 12, for validation and for test each
SPLIT_SALT = 3  # the smallest with both kinds of grid in validation and in test


@dataclass(frozen=True)
class Puzzle:
    """A grid with blanks and its only solution."""

    grid: str
    solution: str

    def __str__(self) -> str:
        return f"{in_rows(self.grid)}={in_rows(self.solution)}"


# --- embedded puzzles -----------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _splits_of_classes() -> dict[str, str]:
    """The split of each class."""
    names = sorted(
        {class_of(solution) for solution in solutions(BLANK * CELLS)},
        key=lambda name: hashlib.sha256(f"{SPLIT_SALT}|{name}".encode()).digest(),
    )
    held_out = dict.fromkeys(names[:HELD_OUT_CLASSES], "test")
    held_out |= dict.fromkeys(names[HELD_OUT_CLASSES : 2 * HELD_OUT_CLASSES], "validation")
    return dict.fromkeys(names, "train") | held_out


def split_of(solution: str) -> str:
    """Assign a solution, and so its puzzles, to train (8 classes), validation (2) or test (2)."""
    return _splits_of_classes()[class_of(solution)]


def draw_puzzle(rng: random.Random, pool: list[str], min_blanks: int, max_blanks: int) -> Puzzle:
    """Draw a solution, a number of blanks and their places, all uniform; again while there are other solutions."""
    while True:
        solution = rng.choice(pool)
        blanks = set(rng.sample(range(CELLS), rng.randint(min_blanks, max_blanks)))
        grid = "".join(BLANK if cell in blanks else digit for cell, digit in enumerate(solution))
        if unique_solution(grid) is not None:
            return Puzzle(grid, solution)


def generate(split: str, size: int, *, seed: int, min_blanks: int, max_blanks: int) -> list[Puzzle]:
    """Draw the puzzles of one split; one may repeat in train only.

    Raises:
        ValueError: the split has fewer distinct puzzles than a held-out `size`.
    """
    pool = [solution for solution in solutions(BLANK * CELLS) if split_of(solution) == split]
    described = f"puzzles with {min_blanks} to {max_blanks} blanks"
    return draw_split(
        lambda rng: draw_puzzle(rng, pool, min_blanks, max_blanks), split, size, seed=seed, described=described
    )


# --- records --------------------------------------------------------------------------------------


def to_puzzle(raw: object, where: str) -> Puzzle:
    """Read one record {"puzzle", "solution"}, the latter optional."""
    given = {key: raw.get(key) for key in ("puzzle", "solution")} if isinstance(raw, dict) else {}
    grid, solution = (_to_grid(given.get(key)) for key in ("puzzle", "solution"))
    if grid is None or BLANK not in grid or (solution is None and given.get("solution") is not None):
        raise ValueError(
            f'{where}: expected {{"puzzle": "1..4............"}} of {CELLS} cells, 1 to {SIDE} or a blank '
            '(".", "0" or "_"), and if anything a "solution" like it'
        )
    only = unique_solution(grid)
    if only is None:
        number = "no solution" if next(solutions(grid), None) is None else "more than one solution"
        raise ValueError(f"{where}: the puzzle {in_rows(grid)} has {number}")
    if solution not in (None, only):
        raise ValueError(f"{where}: the solution of {in_rows(grid)} is {in_rows(only)}, not {in_rows(solution)}")
    return Puzzle(grid, only)


def _to_grid(value: object) -> str | None:
    """A grid as it is written in files, without what rows are parted by; None for anything else."""
    if not isinstance(value, str):
        return None
    grid = re.sub(r"\s", "", value).translate(str.maketrans("0_", BLANK * 2))
    return grid if re.fullmatch(rf"[{DIGITS}{BLANK}]{{{CELLS}}}", grid) else None


def divide(sources: list[list[Puzzle]], sizes: dict[str, int | None], seed: int) -> dict[str, list[Puzzle]]:
    """Divide distinct puzzles by the class of their solution. A test source is used whole, up to its size, and its
    classes are in no other split.

    Raises:
        ValueError: a split is left without puzzles.
    """
    distinct = [list(dict.fromkeys(source)) for source in sources]
    random.Random(seed).shuffle(distinct[0])
    tested = {class_of(puzzle.solution) for puzzle in distinct[1]} if len(distinct) == 2 else set()
    puzzles: dict[str, list[Puzzle]] = {"train": [], "validation": [], "test": []}
    for puzzle in distinct[0]:
        if class_of(puzzle.solution) not in tested:
            puzzles[split_of(puzzle.solution)].append(puzzle)
    if len(distinct) == 2:
        puzzles["test"] = distinct[1]
    for split, rows in puzzles.items():
        if not rows:
            raise ValueError(
                f"task.data_files: of {len(distinct[0])} distinct training puzzles none is left for {split}; splits "
                "share no solution, nor one with its digits exchanged"
                + (f", and the test source has {len(tested)} of the 12 classes of these" if tested else "")
            )
    caps = sizes | {"validation": sizes["validation"] or VALIDATION_SIZE}
    return {split: rows[: caps[split]] for split, rows in puzzles.items()}
