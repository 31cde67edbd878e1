"""4x4 sudoku: fill the blanks so that every row, column and 2x2 box holds 1, 2, 3 and 4. A task of d1 (Zhao et al.
2025, arXiv:2504.12216), there with another prompt, and rewarded by the share of blanks that are right.

Nouns: a *puzzle* is a grid with blanks and exactly one solution, which a solver proves; see
`trainers.tasks.sudoku.grids` for grids and classes. A *verdict* says whether a completion is the solution.

Convention: a grid is written in rows, "1..4 .... .2.. 3..."; a completion is the whole solution and nothing else, so
that prompt and completion have one length for all puzzles. Three sources give the same columns (prompt, completion,
answer; cluster, which is the solution): an embedded seeded generator, local jsonl files of {"puzzle": "1..4..."} with
or without "solution" (blanks are ".", "0" or "_"), and a dataset of the hub with these columns.

Splits: no two share a class, that is a solution or any exchange of its digits. So no held-out puzzle is a masked
training solution, nor one with other digits. What they share are the symmetries of the place: up to swaps of rows,
columns and bands and transposition there are only 2 kinds of grid, too few for three splits. Of the 12 classes 8
train, 2 validate and 2 test, each split with both kinds; which ones is fixed, the same for every seed and source.
Intervals count solutions as independent; they do not speak for other classes than the 2.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

import datasets

from trainers.tasks.hub import read_hub
from trainers.tasks.sources import TEST_SIZE, VALIDATION_SIZE, check_sources, read_jsonl
from trainers.tasks.sudoku.grids import BLANK, CELLS, DIGITS, FEWEST_CLUES, SIDE, in_rows, keeps_clues, unique_solution
from trainers.tasks.sudoku.puzzles import Puzzle, divide, generate, to_puzzle
from trainers.tasks.verdicts import Verdict, text_of

NAME = "sudoku"

TRAIN_SIZE = 16384  # embedded puzzles; a real training file is used whole

SUDOKU_FILE = "a sudoku jsonl file"
FORM = re.compile(" ".join([rf"[{DIGITS}]{{{SIDE}}}"] * SIDE))
ANSWER = re.compile(f"({' '.join([rf'[{DIGITS}{BLANK}]{{{SIDE}}}'] * SIDE)})=({FORM.pattern})")
# What may stand between the digits of a grid in a text: blanks and what rows and tables are drawn with.
GRID_TEXT = re.compile(r"[0-9\s|,+\-\[\]]+")


def build_prompt(puzzle: str) -> str:
    """Return the prompt of a puzzle in rows; the completion starts right after it."""
    return f"Sudoku: {puzzle}\nAnswer:"


# --- verifier and rewards -------------------------------------------------------------------------


def verify(completion: str, answer: str) -> Verdict:
    """Compare the grid of a completion with the solution, which is the only one: a right grid has all clues.

    Args:
        completion: text of the model. Strict wants the solution in rows and nothing else but blanks around it. Lenient
            takes the last 16 digits that nothing but blanks, "|", ",", "+", "-" and brackets part.
        answer: puzzle and solution, as in the `answer` column.

    Raises:
        ValueError: `answer` is not a puzzle with its solution.
    """
    puzzle = _read_answer(answer)
    strict = _strict_grid(completion) == puzzle.solution
    return Verdict(strict=strict, lenient=strict or _last_grid(completion) == puzzle.solution)


def correctness(completions: list, answer: list[str], **kwargs) -> list[float]:
    """Reward 1.0 for a strictly correct completion (see `verify`), else 0.0."""
    return [float(verify(text_of(c), a).strict) for c, a in zip(completions, answer, strict=True)]


def format_reward(completions: list, **kwargs) -> list[float]:
    """Reward 1.0 for a completion that is one grid in rows and nothing else; its digits may be wrong."""
    return [float(_strict_grid(text_of(c)) is not None) for c in completions]


def cells(completions: list, answer: list[str], **kwargs) -> list[float]:
    """Reward the share s of blanks filled right beyond chance, (4 s - 1) / 3, from -1/3 to 1.

    Nothing is right, s = 0, in a completion that is no grid in rows or changes a clue. So a constant answer earns -1/3
    on nearly every puzzle, and guessing (or filling in one digit) that keeps the clues earns 0 in the mean: of all
    exchanges of digits a quarter has the guess in that blank. Only reading the puzzle earns more.
    """
    return [_excess(text_of(c), _read_answer(a)) for c, a in zip(completions, answer, strict=True)]


REWARDS = {"correctness": correctness, "format": format_reward, "cells": cells}


def _strict_grid(text: str) -> str | None:
    text = text.strip()
    return text.replace(" ", "") if FORM.fullmatch(text) else None


def _last_grid(text: str) -> str:
    """The last 16 digits of the last part of a text that may be a grid, empty if there is none."""
    parts = (re.sub(r"\D", "", part) for part in reversed(GRID_TEXT.findall(text)))
    return next((digits[-CELLS:] for digits in parts if len(digits) >= CELLS), "")


def _excess(text: str, puzzle: Puzzle) -> float:
    grid = _strict_grid(text)
    blanks = [cell for cell in range(CELLS) if puzzle.grid[cell] == BLANK]
    if grid is None or not keeps_clues(grid, puzzle.grid):
        right = 0
    else:
        right = sum(grid[cell] == puzzle.solution[cell] for cell in blanks)
    chance = 1 / len(DIGITS)
    return (right / len(blanks) - chance) / (1 - chance)


@lru_cache(maxsize=TRAIN_SIZE)
def _read_answer(answer: str) -> Puzzle:
    match = ANSWER.fullmatch(answer)
    puzzle = Puzzle(*(part.replace(" ", "") for part in match.groups())) if match else None
    if puzzle is None or unique_solution(puzzle.grid) != puzzle.solution or puzzle.grid == puzzle.solution:
        raise ValueError(f"answer = {answer!r}: expected a puzzle and its solution, each in rows, joined by '='")
    return puzzle


# --- dataset --------------------------------------------------------------------------------------


def load_splits(
    *,
    data_files: list[str] | None,
    dataset_name: str | None,
    train_size: int | None,
    validation_size: int | None,
    test_size: int | None,
    seed: int,
    min_blanks: int = 4,
    max_blanks: int = 8,
) -> dict[str, datasets.Dataset]:
    """Load the disjoint splits train, validation and test with the text columns prompt, completion, answer and
    cluster.

    Args:
        data_files: jsonl files [train] or [train, test]; None with `dataset_name` None means embedded puzzles.
        dataset_name: a hub dataset with the columns puzzle and, if it has them, solution.
        train_size: rows of train; for real data a cap. None: `TRAIN_SIZE` embedded puzzles, or all real rows.
        validation_size: rows of validation, of real data at most. None: `VALIDATION_SIZE`.
        test_size: rows of test, of real data at most. None: `TEST_SIZE`, or all real rows.
        seed: seed of the generator, or of the order of real rows.
        min_blanks: fewest blanks of an embedded puzzle, 1 to 12.
        max_blanks: most blanks of an embedded puzzle, `min_blanks` to 12; no puzzle has more.

    Raises:
        ValueError: a value is out of range, a size cannot be reached, or a record is malformed or no puzzle.
        FileNotFoundError: a data file does not exist.
    """
    sizes = {"train": train_size, "validation": validation_size, "test": test_size}
    check_sources(data_files, dataset_name, sizes)
    _check_blanks(min_blanks, max_blanks)
    if dataset_name is not None:
        puzzles = divide(read_hub(dataset_name, to_puzzle), sizes, seed)
    elif data_files is not None:
        puzzles = divide([read_jsonl(path, to_puzzle, SUDOKU_FILE) for path in data_files], sizes, seed)
    else:
        defaults = {"train": TRAIN_SIZE, "validation": VALIDATION_SIZE, "test": TEST_SIZE}
        puzzles = {
            split: generate(split, sizes[split] or default, seed=seed, min_blanks=min_blanks, max_blanks=max_blanks)
            for split, default in defaults.items()
        }
    return {split: datasets.Dataset.from_list(_to_rows(found)) for split, found in puzzles.items()}


def _check_blanks(min_blanks: int, max_blanks: int) -> None:
    most = CELLS - FEWEST_CLUES
    for name, value in (("min_blanks", min_blanks), ("max_blanks", max_blanks)):
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(f"task.options.{name} = {value!r}: must be a whole number in 1..{most}")
    if min_blanks > max_blanks:
        raise ValueError(f"task.options.min_blanks = {min_blanks}: must be at most max_blanks = {max_blanks}")


def _to_rows(puzzles: Iterable[Puzzle]) -> list[dict[str, str]]:
    return [
        {
            "prompt": build_prompt(in_rows(puzzle.grid)),
            "completion": in_rows(puzzle.solution),
            "answer": str(puzzle),
            "cluster": in_rows(puzzle.solution),
        }
        for puzzle in puzzles
    ]
