"""Rows of a dataset of the hub, read into what a task makes of them."""

from collections.abc import Callable
from typing import TypeVar

import datasets

Row = TypeVar("Row")


def read_hub(dataset_name: str, to_row: Callable[[object, str], Row], subset: str | None = None) -> list[list[Row]]:
    """Return the rows of the split train and, where there is one, of the split test.

    Args:
        dataset_name: such as "openai/gsm8k".
        to_row: makes a row of a record and the words that say where it stands.
        subset: its configuration, where it has several.

    Raises:
        ValueError: there is no split train, or a record is malformed.
    """
    splits = datasets.load_dataset(dataset_name) if subset is None else datasets.load_dataset(dataset_name, subset)
    if "train" not in splits:
        raise ValueError(f"task.dataset_name = {dataset_name!r}: expected a split train, got {list(splits)}")
    return [
        [to_row(raw, f"{dataset_name} {split}, row {i}") for i, raw in enumerate(splits[split])]
        for split in ("train", "test")
        if split in splits
    ]
