"""Records of a local file: jsonl, a JSON list, csv or parquet, by the end of its name."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets

from trainers.tasks.own.rows import Reader, Row
from trainers.tasks.sources import check_file, read_jsonl

OPTION = "task.data_files"
EXPECTED = "a .jsonl, .json, .csv or .parquet file with a column prompt or messages"


def read_file(path: str, to_row: Reader) -> list[Row]:
    """All rows of a file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is of another kind, a record is malformed, or there is none.
    """
    check_file(path, EXPECTED)
    kind = Path(path).suffix.lower()
    if kind == ".jsonl" or (kind == ".json" and not _is_list(path)):
        return read_jsonl(path, to_row, EXPECTED)
    if kind not in READERS:
        raise ValueError(f"{OPTION}: {path} ends in {kind or 'nothing'!r}; expected {EXPECTED}")
    rows = [to_row(record, where) for record, where in READERS[kind](path)]
    if not rows:
        raise ValueError(f"{OPTION}: {path} has no rows; expected {EXPECTED}")
    return rows


def _is_list(path: str) -> bool:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return file.read(256).lstrip()[:1] == "["


def _json_list(path: str) -> Iterator[tuple[Any, str]]:
    try:
        records = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{OPTION}: {path} is not JSON ({error}); expected {EXPECTED}") from error
    for number, record in enumerate(records, start=1):
        yield record, f"{OPTION}: {path}, record {number}"


def _csv(path: str) -> Iterator[tuple[Row, str]]:
    """Every value is a text, so that 007 stays what it is."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restkey="", strict=True)
        try:
            for record in reader:
                where = f"{OPTION}: {path}, line {reader.line_num}"
                if "" in record or None in record.values():
                    raise ValueError(f"{where}: expected {len(reader.fieldnames or ())} values, as in the first line")
                yield record, where
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{OPTION}: {path}, line {reader.line_num}: {error}") from error


def _parquet(path: str) -> Iterator[tuple[Row, str]]:
    try:
        table = datasets.Dataset.from_parquet(path)
    except Exception as error:  # of whichever library reads it
        raise ValueError(f"{OPTION}: {path} is no parquet file ({error})") from error
    assert isinstance(table, datasets.Dataset)
    for number, record in enumerate(table, start=1):
        yield dict(record), f"{OPTION}: {path}, row {number}"


READERS: dict[str, Callable[[str], Iterator[tuple[Any, str]]]] = {
    ".json": _json_list,
    ".csv": _csv,
    ".parquet": _parquet,
}
