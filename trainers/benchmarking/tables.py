"""Rows as a table: on the console, in Markdown for the README, and with all their numbers in JSON."""

import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from rich.box import SIMPLE
from rich.table import Table


class Row(Protocol):
    """One measurement: as text for people under HEADINGS, and as numbers for programs."""

    HEADINGS: ClassVar[tuple[str, ...]]

    def cells(self) -> list[str]:
        """The measurement as text, one cell a heading, units as the headings say."""
        ...

    def describe(self) -> dict[str, Any]:
        """All its numbers by name, for results.json."""
        ...


@dataclass(frozen=True)
class Spread:
    """Median, least and largest of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Median, least and largest of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def rate(self, count: float) -> str:
        """``count`` things in so many seconds, as things a second."""
        return str(Spread(count / self.median, count / self.high, count / self.low))

    def __str__(self) -> str:
        return f"{_number(self.median)} ({_number(self.low)}-{_number(self.high)})"


def _number(value: float) -> str:
    """Three digits that count, and no exponent."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def share(value: float | None) -> str:
    """A share as a percentage with one decimal; "-" for None, not measured."""
    return "-" if value is None else f"{value:.1%}"


def mebibytes(value: int | None) -> str:
    """Bytes as MiB with one decimal; "-" for None, not measured."""
    return "-" if value is None else f"{value / 2**20:.1f}"


def machine(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def console_table(rows: Sequence[Row]) -> Table:
    """Rows of one kind, at least one, as a table for the terminal, numbers to the right."""
    table = Table(box=SIMPLE, collapse_padding=True, show_edge=False)
    for heading in rows[0].HEADINGS:
        table.add_column(heading, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*row.cells())
    return table


def markdown_table(rows: Sequence[Row]) -> str:
    """Rows of one kind, at least one, as a table in Markdown, numbers to the right."""
    lines = [rows[0].HEADINGS, ["---:"] * len(rows[0].HEADINGS), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(folder: Path, header: Sequence[str], record: dict[str, Any], rows: Sequence[Row]) -> list[Path]:
    """benchmark.md (header lines and table) and results.json (``record`` and every row's numbers) in ``folder``."""
    results, text = folder / "results.json", folder / "benchmark.md"
    results.write_text(json.dumps(record | {"rows": [row.describe() for row in rows]}, indent=2, default=str))
    text.write_text("\n\n".join([*header, markdown_table(rows)]) + "\n")
    return [results, text]
