"""report.html as a browser shows it, and the values that it was written from."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")


def content_of(page: Path):
    """The JSON value of a page, found as a browser finds it: up to the first end of its script element."""
    [text] = re.findall(r'<script type="application/json" id="content">(.*?)</script', page.read_text(), re.DOTALL)
    return json.loads(text)


class Node:
    """An element of a page, with the little of it that tests ask for."""

    def __init__(self, tag, attributes, parent=None):
        self.tag, self.attributes, self.parent, self.children = tag, dict(attributes), parent, []

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    @property
    def classes(self):
        return (self.attributes.get("class") or "").split()

    def all(self, tag=None, class_=None, **attributes):
        """Every element below that has a tag, a class and attributes (``data_at`` is data-at), in order."""
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        found = []
        for child in (child for child in self.children if isinstance(child, Node)):
            fits = (tag is None or child.tag == tag) and (class_ is None or class_ in child.classes)
            if fits and all(child.attributes.get(name) == value for name, value in wanted.items()):
                found.append(child)
            found += child.all(tag, class_, **attributes)
        return found

    def one(self, *args, **kwargs):
        found = self.all(*args, **kwargs)
        assert len(found) == 1, f"{len(found)} elements {args} {kwargs}"
        return found[0]


VOID = {"meta", "input", "br", "hr", "img", "link"}


class Tree(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.root = self.here = Node("", {})

    def handle_starttag(self, tag, attrs):
        node = Node(tag, attrs, self.here)
        self.here.children.append(node)
        if tag not in VOID:
            self.here = node

    def handle_endtag(self, tag):
        node = self.here
        while node.parent is not None and node.tag != tag:
            node = node.parent
        self.here = node.parent or self.root

    def handle_data(self, data):
        self.here.children.append(data)


def browse(page: Path, state: str = "") -> Node:
    """The page after its scripts have run, opened at a state such as "at=3"; an error of theirs fails the test."""
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000",
        "--window-size=1280,900", "--dump-dom", f"{page.resolve().as_uri()}#{state}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    tree = Tree()
    tree.feed(done.stdout)
    html = tree.root.one("html")
    assert "data-error" not in html.attributes, html.attributes["data-error"]
    assert html.attributes.get("data-ready") == "true", done.stderr[-2000:]
    return html
