"""Prompts and answers of the user's own, from files or the hub; what is right is for the user's rewards to say.

`correctness`, the one reward that comes along, compares a whole text with the column `answer`. There is a held-out
accuracy only where it is among the rewards; otherwise the means of the rewards are what is measured.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets

from trainers.tasks.hub import read_hub
from trainers.tasks.own.files import read_file
from trainers.tasks.own.rows import COLUMNS, Reader, Row
from trainers.tasks.sources import carve, check_sources
from trainers.tasks.verdicts import Verdict, text_of

NAME = "own"


def build_prompt(question: str) -> str:
    """The prompt as it is given; the completion starts right after it."""
    return question


def verify(completion: str, answer: Any) -> Verdict:
    """Whether a text is the answer: strictly but for blanks around it, leniently also but for case and spacing."""
    told, right = completion.strip(), str(answer).strip()
    return Verdict(strict=told == right, lenient=_plain(told) == _plain(right))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def correctness(completions: Sequence[Any], answer: Sequence[Any], **kwargs: Any) -> list[float]:
    """1 where the text is the answer, else 0."""
    return [float(verify(text_of(c), a).strict) for c, a in zip(completions, answer, strict=True)]


REWARDS = {"correctness": correctness}


def load_splits(
    *,
    data_files: list[str] | None,
    dataset_name: str | None,
    dataset_config: str | None = None,
    columns: dict[str, str] | None = None,
    train_size: int | None,
    validation_size: int | None,
    test_size: int | None,
    seed: int,
) -> dict[str, datasets.Dataset]:
    """Load the splits train, validation and test, disjoint in their prompts (or in a column `cluster` of the data).

    Args:
        data_files: [train] or [train, test]; what is missing is carved out of train.
        dataset_name: a hub dataset with a split train.
        dataset_config: its configuration, where it has several.
        columns: name here -> name in the data, see `Reader`.
        train_size, validation_size, test_size: most prompts; None: all, and a tenth of what is carved.
        seed: of the carving.

    Returns:
        The columns prompt and cluster, completion and answer where the data has them, and all others of the data. The
        training split's description says how many rows there are of each.

    Raises:
        ValueError: no source, an unknown column, a malformed record, or too few rows.
        FileNotFoundError: a data file does not exist.
    """
    sizes = {"train": train_size, "validation": validation_size, "test": test_size}
    check_sources(data_files, dataset_name, sizes)
    to_row = Reader(_checked(columns or {}))
    if dataset_name is not None:
        sources = read_hub(dataset_name, to_row, dataset_config)
    elif data_files is not None:
        sources = [read_file(path, to_row) for path in data_files]
    else:
        raise ValueError("task.name='own': it has no problems of its own; set task.data_files or task.dataset_name")
    grouped = [_by_cluster(rows) for rows in sources]
    test = grouped[1] if len(grouped) == 2 else None
    carved = carve(grouped[0], test, lambda rows: rows[0]["cluster"], sizes, seed, "prompts")
    splits = {name: _dataset([row for rows in groups for row in rows]) for name, groups in carved.items()}
    source = dataset_name or ", ".join(Path(path).name for path in data_files or ())
    splits["train"].info.description = f"rows of {source}: {_told(splits, grouped, seed)}"
    return splits


def _told(splits: dict[str, datasets.Dataset], grouped: list[list[list[Row]]], seed: int) -> str:
    """How many rows each split has, and how it came about."""
    sizes = ", ".join(f"{len(rows)} {name}" for name, rows in splits.items())
    if len(grouped) == 1:
        return f"{sizes} (split by task.seed={seed})"
    asked = {rows[0]["cluster"] for rows in grouped[1]}
    both = sum(len(rows) for rows in grouped[0] if rows[0]["cluster"] in asked)
    left_out = f"; {both} left out of train, whose prompts are in test" if both else ""
    return f"{sizes} (validation split off train by task.seed={seed}{left_out})"


def _checked(columns: dict[str, str]) -> dict[str, str]:
    for ours, theirs in columns.items():
        if ours not in COLUMNS or not isinstance(theirs, str):
            raise ValueError(
                f"task.columns={columns}: expected names of columns of the data, each for one of {', '.join(COLUMNS)}"
            )
    return columns


def _by_cluster(rows: list[Row]) -> list[list[Row]]:
    """Rows of equal prompts together, as no two splits may share a prompt; none is dropped."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        prompt = row["prompt"] if isinstance(row["prompt"], str) else json.dumps(row["prompt"], ensure_ascii=False)
        row["cluster"] = str(row.get("cluster") or prompt)
        groups.setdefault(row["cluster"], []).append(row)
    return list(groups.values())


def _dataset(rows: list[Row]) -> datasets.Dataset:
    """All columns of all rows; what a row does not have is None."""
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row.get(name) for row in rows] for name in names}
    for name, column in values.items():
        try:
            datasets.Dataset.from_dict({name: column})
        except (ValueError, TypeError) as error:  # of pyarrow
            kinds = sorted({type(value).__name__ for value in column})
            raise ValueError(
                f"task.data_files: column {name!r} holds values of different kinds ({', '.join(kinds)}); expected one"
            ) from error
    return datasets.Dataset.from_dict(values)
