"""One HTML file out of a template, a style sheet, scripts and a JSON value."""

import html
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from trainers.reporting.markdown import plain
from trainers.saving.files import replace_file

# in the order in which they are run
SCRIPTS = ("basics.js", "colours.js", "chart.js", "curves.js", "player.js", "rollouts.js", "solved.js", "main.js")
# Only these could end a script element or open another; what is not ASCII, as U+2028, JSON escapes by itself.
INERT = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}


def write_page(path: str | Path, title: str, content: Mapping[str, Any]) -> Path:
    """Write one page, whole or not at all.

    Args:
        path: the HTML file.
        title: of the window; any text.
        content: what the scripts show (`trainers.reporting.page.content`), of values that JSON knows.
    """
    path = Path(path)
    replace_file(path, document(title, content).encode())
    return path


def document(title: str, content: Mapping[str, Any]) -> str:
    """The text of the page. No text of ``title`` or ``content`` acts as markup."""
    assets = files("trainers.reporting.page") / "assets"
    read = {name: (assets / name).read_text(encoding="utf-8") for name in ("page.html", "style.css", *SCRIPTS)}
    return Template(read["page.html"]).substitute(
        title=html.escape(title),
        style=read["style.css"],
        data=embedded(content),
        script="\n".join(read[name] for name in SCRIPTS),
    )


def embedded(value: Any) -> str:
    """A value as ASCII JSON that can stand in a script element; a number that is not finite becomes null."""
    return json.dumps(plain(value), allow_nan=False, separators=(",", ":")).translate(INERT)
