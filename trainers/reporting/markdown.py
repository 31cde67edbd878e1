"""Text of markdown: tables whose cells stay closed, numbers, YAML blocks.

A *cell* is text that a model or a library may have written, so nothing in it may act as markdown. `plain` turns values
into what JSON and YAML know.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import yaml

from trainers.reporting.history import is_number

ABSENT = "–"  # noqa: RUF001 (an en dash in an empty cell)


def markdown_table(header: Sequence[str], rows: Any) -> str:
    """A table of any values: its header, and an iterable of rows as long as it."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    """Text that stays inside its cell and shows what it says: no pipe, line break, tag, code or emphasis of its
    own."""
    text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace("\\", "\\\\")
    for mark in "|`*":
        text = text.replace(mark, f"\\{mark}")
    return "<br>".join(text.strip().splitlines())


def number(value: Any, digits: int = 4) -> str:
    """So many significant digits; whole and with commas from 1000 on; `ABSENT` for what is no finite number."""
    if not is_number(value):
        return ABSENT
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def yaml_block(settings: dict[str, Any]) -> str:
    """A fenced block that reads back as the settings."""
    text = yaml.safe_dump(plain(settings), sort_keys=False, allow_unicode=True) if settings else "{}\n"
    return f"```yaml\n{text}```"


def plain(value: Any) -> Any:
    """As JSON and YAML know it: plain containers; a number that is not finite becomes null, other objects their
    text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
