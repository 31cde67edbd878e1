"""Finished problems on disk, so that an evaluation that was killed goes on where it was.

A text file of JSON lines. The first says what decides the outcomes (`identity`); every further one is one problem in
one row of the sweep, one decoding, one repetition. A line is written by one call, so a kill can truncate the last at
most: that one is dropped.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from trainers.evaluating.evaluation import Answer
from trainers.evaluating.identity import first_difference
from trainers.settings.options import ConfigError

# of an answer; how it was written is not kept
KEPT = tuple(field.name for field in fields(Answer) if field.name != "playback")


def journal_path(record: Path) -> Path:
    """NAME.jsonl beside the record NAME.json."""
    return record.with_name(record.name.removesuffix(".json") + ".jsonl")


class Place(NamedTuple):
    """Which answer: row of the sweep, decoding, repetition, problem."""

    row: int
    decoding: str
    repetition: int
    problem: int


class Journal:
    """The journal of one evaluation.

    Args:
        path: of the file.
        identity: what decides the outcomes, JSON-serialisable.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]):
        self.path, self.identity = path, json.loads(json.dumps(identity))

    def open(self) -> dict[Place, Answer]:
        """Start the file, or read what an earlier run finished.

        Raises:
            ConfigError: the file belongs to another evaluation, is no journal, or is damaged before its last line.
        """
        text = self.path.read_bytes() if self.path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        if not whole:
            self.path.write_bytes(json.dumps({"identity": self.identity}).encode() + b"\n")
            return {}
        head, *lines = whole.splitlines()
        self._check(head)
        found = dict(self._read(line, number) for number, line in enumerate(lines, start=2))
        if len(whole) < len(text):
            os.truncate(self.path, len(whole))
        return found

    def append(self, answers: Iterable[tuple[Place, Answer]]) -> None:
        """Add finished problems; on disk when it returns."""
        with open(self.path, "ab", buffering=0) as file:
            for place, answer in answers:
                entry = place._asdict() | {name: getattr(answer, name) for name in KEPT}
                file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
            os.fsync(file.fileno())

    def _check(self, head: bytes) -> None:
        try:
            theirs = json.loads(head)["identity"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self.path}: expected the journal of an evaluation, its first line is none") from error
        difference = first_difference(self.identity, theirs)
        if difference is not None:
            raise ConfigError(
                f"{self.path} is the journal of another evaluation: {difference}; name another --json, or delete it"
            )

    def _read(self, line: bytes, number: int) -> tuple[Place, Answer]:
        try:
            entry = json.loads(line)
            # what only some tasks have may be missing
            answer = {name: entry[name] for name in KEPT if name in entry}
            return Place(**{name: entry[name] for name in Place._fields}), Answer(**answer)
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self.path}, line {number}: damaged; delete the file to start anew") from error
