"""What a check-up says: one finding a line, in a table that fits into 80 columns."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

OK, NOTE, FAULT, NOT_RUN = "ok", "note", "fault", "not run"
COLOURS = {OK: "green", NOTE: "yellow", FAULT: "bold red", NOT_RUN: "dim"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what was looked at.
        outcome: OK; NOTE: worth knowing, and no fault; FAULT: the checkpoint is not fit to be trained here; NOT_RUN.
        seen: what was seen, with numbers.
    """

    check: str
    outcome: str
    seen: str


def one_line(error: BaseException) -> str:
    """An exception as a finding tells it: its kind, and its text without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def table(findings: Sequence[Finding]) -> Table:
    """For the terminal."""
    shown = Table(box=SIMPLE, collapse_padding=True, show_edge=False)
    shown.add_column("check", no_wrap=True)
    shown.add_column("", no_wrap=True)
    shown.add_column("seen", overflow="fold")
    for finding in findings:
        outcome = Text(finding.outcome, style=COLOURS[finding.outcome])
        shown.add_row(finding.check, outcome, Text(finding.seen))
    return shown


def fit(findings: Sequence[Finding]) -> bool:
    """Whether nothing that was found keeps the checkpoint from being trained."""
    return all(finding.outcome != FAULT for finding in findings)
