"""The site is built strictly, and links of the repository's texts are links of its pages."""

import re
import subprocess
import sys

import pytest
from hooks import hook
from paths import REPO

pytest.importorskip("mkdocs", reason="with the extra `docs`")
site = hook("site")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the site; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_generated_pages_hold_what_the_code_says(built):
    assert 'id="generation.steps"' in (built / "options.html").read_text()
    assert 'id="core.TrajectoryNELBOLoss"' in (built / "api" / "core.html").read_text()
    assert "ImprovedDiffuGRPOTrainer" in (built / "api" / "trainers.html").read_text()
    commands = (built / "commands.html").read_text()
    assert all(f">{path.stem}<" in commands for path in (REPO / "scripts").glob("*.py"))


def test_nothing_is_fetched_from_elsewhere_when_a_page_is_read(built):
    """No font, script or style of another host: pages can be read without a network."""
    fetched = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=["'](?:https?:)?//[^"']*""")
    found = {page.name: fetched.findall(page.read_text()) for page in built.rglob("*.html")}
    assert {page: links for page, links in found.items() if links} == {}


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("[a](../../../docs/tasks.md#x)", "[a](../tasks.md#x)"),
        ("[a](../other/README.md)", "[a](../other/README.md)"),
        ("[the class](../../../trainers/grpo/trainer.py)", "the class"),
        ("![a](../../../docs/run.png)", "![a](../run.png)"),
        ("[a](https://example.org/b.md)", "[a](https://example.org/b.md)"),
        ("[a](#here)", "[a](#here)"),
        ("[a](gone.md)", "[a](gone.md)"),
    ],
)
def test_links_of_a_text_from_elsewhere_lead_to_pages(link, expected):
    pages = {"tasks.md", "run.png"}
    assert site.relink(link, "configs/recipes/one/README.md", "recipes/one.md", pages) == expected
