"""A page of docs/ as a notebook: its commands and its Python are cells, what lies between them is text.

    python docs/hooks/notebook.py     write docs/tutorials/first_run.ipynb from first_run.md

The page is the source; a test compares the two. Blocks that set the project up (`make`) stay text: a notebook's kernel
has the packages already.
"""

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1]
PAGES = ("tutorials/first_run",)
BLOCK = re.compile(r"^```(bash|python)\n(?!make )(.*?)^```\n", re.MULTILINE | re.DOTALL)
PAGE_LINK = re.compile(r"(?<=\])\((?!https?:)([^)]+)\)")
FIRST = "Run this notebook from the top folder of the repository, in a kernel of its environment (`.venv`).\n"
TO_THE_TOP = """import os
import sys
from pathlib import Path

os.chdir(next(folder for folder in [Path.cwd(), *Path.cwd().parents] if (folder / "scripts").is_dir()))
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
"""


def notebook(page: str) -> dict[str, Any]:
    """The notebook of a page's text, format 4.5, without outputs."""
    texts = BLOCK.split(page)  # text, language, code, text, ...
    title, _, rest = texts[0].partition("\n")
    cells = [_cell("markdown", f"{title}\n\n{FIRST}"), _cell("code", TO_THE_TOP), _cell("markdown", rest)]
    for language, code, text in zip(texts[1::3], texts[2::3], texts[3::3], strict=True):
        cells += [_cell("code", "%%bash\n" + code if language == "bash" else code), _cell("markdown", text)]
    kept = [cell | {"id": f"cell-{number}"} for number, cell in enumerate(cells) if cell["source"]]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": kept, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def written(page: str) -> str:
    """The file of a page's notebook."""
    return json.dumps(notebook(page), indent=1, ensure_ascii=False) + "\n"


def _cell(kind: str, text: str) -> dict[str, Any]:
    if kind == "markdown":
        text = PAGE_LINK.sub("", text)  # pages of the site are not beside a notebook
    source = text.strip("\n").splitlines(keepends=True)
    outputs = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, "source": source} | outputs


if __name__ == "__main__":
    for name in PAGES:
        text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        (DOCS / f"{name}.ipynb").write_text(written(text), encoding="utf-8")
