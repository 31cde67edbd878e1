"""Links of README, docs and recipes lead to files and headings that are there; no text names a machine's folders."""

import re
from pathlib import Path

import pytest
from documents import LANGUAGES, anchors_of, blocks, links_of, pages
from paths import REPO

MACHINE = re.compile(r"(?<![\w.:/-])/(?:work|tmp|root|home|Users)/[\w./-]+")
GENERATED = {"docs/options.md", "docs/commands.md", "docs/changelog.md", "docs/contributing.md"}  # by docs/hooks
GENERATED_FOLDERS = ("docs/api/", "docs/recipes/")


def broken(page: Path, text: str) -> list[str]:
    """The relative links of a text that lead nowhere.

    Args:
        page: the file that holds it.
        text: of the page.
    """
    found = []
    for link in links_of(text):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        path = (page.parent / target).resolve() if target else page
        name = path.relative_to(REPO).as_posix() if path.is_relative_to(REPO) else ""
        if name in GENERATED or name.startswith(GENERATED_FOLDERS):
            continue
        there = path == page or path.exists()
        inside = text if path == page else path.read_text(encoding="utf-8") if path.suffix == ".md" and there else ""
        if not name or not there or (anchor and path.suffix == ".md" and anchor not in anchors_of(inside)):
            found.append(link)
    return found


def test_relative_links_and_anchors_are_there():
    found = {str(page.relative_to(REPO)): broken(page, page.read_text(encoding="utf-8")) for page in pages()}
    assert {page: links for page, links in found.items() if links} == {}


def test_a_broken_link_is_found():
    text = "# A title: `code`, [x](docs/index.md)\n"
    text += "[a](#a-title-code-x) [b](#nowhere) ![c](gone.png) [d](docs/index.md#nowhere)\n"
    text += "`[in code](gone.md)` [e](https://example.org/gone) [f](../outside.md) [g](docs/options.md#loss)\n"
    assert broken(REPO / "README.md", text) == ["#nowhere", "gone.png", "docs/index.md#nowhere", "../outside.md"]


def test_no_text_names_a_place_of_one_machine():
    found = {str(page.relative_to(REPO)): MACHINE.findall(page.read_text(encoding="utf-8")) for page in pages()}
    assert {page: places for page, places in found.items() if places} == {}


def test_every_block_says_what_it_is():
    unlabelled = [str(block) for block in blocks() if block.language not in LANGUAGES]
    assert unlabelled == [], f"write one of {', '.join(LANGUAGES)} behind the fence"


PLACE = "/".join(["", "work", "x.py"])  # put together here, so that this file names none


@pytest.mark.parametrize(("text", "places"), [(f"see {PLACE}", [PLACE]), ("a/tmp/b, runs/x, https://a/root/b", [])])
def test_a_place_of_one_machine_is_found(text, places):
    assert MACHINE.findall(text) == places
