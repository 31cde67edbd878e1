"""The notebook is its page, cell by cell, and it runs in a kernel from top to bottom."""

import os
import shlex
from pathlib import Path

import pytest
from hooks import hook
from paths import REPO
from recorded import calls
from shortened import shrunk
from shown import commands_in

notebook = hook("notebook")


@pytest.mark.parametrize("page", notebook.PAGES)
def test_the_notebook_is_that_of_its_page(page):
    text = (REPO / "docs" / f"{page}.md").read_text(encoding="utf-8")
    file = REPO / "docs" / f"{page}.ipynb"
    assert file.read_text(encoding="utf-8") == notebook.written(text), "run: python docs/hooks/notebook.py"


def test_blocks_become_cells_and_the_rest_text():
    page = "# T\n\na [b](c.md)\n\n```bash\nmake x\n```\n\n```bash\nls\n```\n\n```text\nout\n```\n\n```python\n1\n```\n"
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook.notebook(page)["cells"][2:]]
    assert cells == [
        ("markdown", "a [b]\n\n```bash\nmake x\n```"),
        ("code", "%%bash\nls"),
        ("markdown", "```text\nout\n```"),
        ("code", "1"),
    ]


def shortened(cell: str, folder: Path) -> str:
    """A cell of commands with small sizes; one of Python as it is."""
    magic, _, text = cell.partition("\n")
    if magic != "%%bash":
        return cell
    commands = [command for call in calls(text, folder) for command in commands_in(call)]
    return "\n".join([magic, *(f"python scripts/{c.script}.py {shlex.join(shrunk(c))}" for c in commands)])


@pytest.mark.parametrize("page", notebook.PAGES)
def test_the_notebook_runs(page, workspace, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")]))
    document = nbformat.read(REPO / "docs" / f"{page}.ipynb", as_version=4)
    for cell in document.cells:
        if cell.cell_type == "code":
            cell.source = shortened(cell.source, workspace)
    kernel = {"metadata": {"path": str(workspace)}}
    nbclient.NotebookClient(document, timeout=300, kernel_name="python3", resources=kernel).execute()
    printed = "".join(out.get("text", "") for cell in document.cells for out in cell.get("outputs", []))
    assert "report: runs" in printed and "points [" in printed and "finish reason" in printed
