"""What every task does with its data: checks of the options, jsonl lines, and the carving of held-out splits."""

import json
import random
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import TypeVar

VALIDATION_SIZE = 512  # of a real training file at most a tenth of its rows
TEST_SIZE = 1024  # embedded problems, or rows carved out of a single file; a real test file is used whole

OTHER = (
    "data of other columns is for task.name=own (docs/tasks.md)"  # ends the errors of tasks with columns of their own
)

Row = TypeVar("Row")


def check_sources(data_files: list[str] | None, dataset_name: str | None, sizes: dict[str, int | None]) -> None:
    """Raise ValueError for two sources at once, a wrong number of files, or a size below 1."""
    if data_files is not None and dataset_name is not None:
        raise ValueError(f"task.dataset_name = {dataset_name!r}: give either data_files or dataset_name, not both")
    if data_files is not None and len(data_files) not in (1, 2):
        raise ValueError(f"task.data_files = {data_files}: expected [train.jsonl] or [train.jsonl, test.jsonl]")
    for split, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"task.{split}_size = {size}: must be at least 1, or null for the default")


def check_generator(
    min_operations: int, max_operations: int, max_number: int, *, most_operations: int, numbers: range
) -> None:
    """Raise ValueError for bounds that a generator of `most_operations` steps over `numbers` cannot keep."""
    if not 1 <= max_operations <= most_operations:
        raise ValueError(f"task.max_operations = {max_operations}: must be in 1..{most_operations}")
    if not 1 <= min_operations <= max_operations:
        raise ValueError(f"task.min_operations = {min_operations}: must be in 1..max_operations = {max_operations}")
    if max_number not in numbers:
        raise ValueError(f"task.max_number = {max_number}: must be in {numbers[0]}..{numbers[-1]}")


def check_file(path: str, expected: str, option: str = "task.data_files") -> None:
    """Raise FileNotFoundError for what is not a file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{option}: {path} is not a file; expected {expected}")


def read_jsonl(
    path: str, to_row: Callable[[object, str], Row], expected: str, option: str = "task.data_files"
) -> list[Row]:
    """Read a file of one JSON object a line.

    Args:
        path: the file.
        to_row: makes a row of an object and the words that say where it stands.
        expected: what the file should be, for errors.
        option: the option that names the file, for errors.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a line is malformed, or there is none.
    """
    check_file(path, expected, option)
    rows = [to_row(raw, where) for raw, where in _records(path, option)]
    if not rows:
        raise ValueError(f"{option}: {path} has no rows; expected {expected}")
    return rows


def _records(path: str, option: str) -> Iterator[tuple[object, str]]:
    with open(path, "rb") as lines:  # bytes: a line that is not UTF-8 then fails with its line number
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{option}: {path}, line {number}"
            try:
                raw = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where}: expected one JSON object per line ({error})") from error
            yield raw, where


def carve(
    source: list[Row],
    test: list[Row] | None,
    key: Callable[[Row], Hashable],
    sizes: dict[str, int | None],
    seed: int,
    noun: str,
) -> dict[str, list[Row]]:
    """Carve validation, and test where there is no test source, out of the training source.

    Args:
        source: rows of the training source.
        test: rows of the test source, used whole up to `sizes["test"]`.
        key: what no two splits may share.
        sizes: wanted rows a split; None: everything, or a tenth of the source for what is carved.
        seed: of the shuffling.
        noun: what a key is, for errors.

    Raises:
        ValueError: nothing is left to train on.
    """
    # What repeats, or what the test source also has, would otherwise cross a split.
    taken = {key(row) for row in test or ()}
    pool = list({key(row): row for row in source if key(row) not in taken}.values())
    random.Random(seed).shuffle(pool)
    tenth = max(1, len(pool) // 10)
    num_validation = sizes["validation"] or min(VALIDATION_SIZE, tenth)
    num_test = (sizes["test"] or min(TEST_SIZE, tenth)) if test is None else 0
    held_out = num_validation + num_test
    if held_out >= len(pool):
        raise ValueError(
            f"task.validation_size = {num_validation} and {num_test} carved test rows leave nothing to train on: "
            f"the training source has {len(pool)} distinct {noun}"
        )
    return {
        "train": pool[held_out:][: sizes["train"]],
        "validation": pool[:num_validation],
        "test": pool[num_validation:held_out] if test is None else test[: sizes["test"]],
    }
