"""The texts that a reader meets (README, docs, recipes), and the code blocks and links in them.

Every block says what it is: ```bash for commands and ```python for code, which `tests/docs/test_blocks.py` runs;
```yaml and ```json for files; ```text for output and for how a command is called.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from paths import REPO

LANGUAGES = ("bash", "python", "yaml", "json", "text")
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^(?P=indent)```\s*$", re.MULTILINE | re.DOTALL
)
INLINE = re.compile(r"`+[^`]*`+")
LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
HEADING = re.compile(r"^#+ +(.+?)(?: +#+)?(?: +\{[^}]*\})?$", re.MULTILINE)
NAMED = re.compile(r"""(?:id|name)=["']([^"']+)["']""")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: the page's path in the repository.
        line: of its first line of text, from 1.
        language: what stands behind the fence.
        text: what it holds, without the indentation of the fence.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Every page, the first ones first."""
    top = [REPO / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    below = [*sorted(REPO.glob("docs/**/*.md")), *sorted(REPO.glob("configs/**/*.md"))]
    return [*top, *below]


def blocks_of(page: str, text: str) -> list[Block]:
    """The fenced blocks of one text."""
    found = []
    for match in FENCE.finditer(text):
        indent = match["indent"]
        body = "".join(line.removeprefix(indent) for line in match["text"].splitlines(keepends=True))
        found.append(Block(page, text.count("\n", 0, match.start("text")) + 1, match["language"], body))
    return found


def blocks(*languages: str) -> list[Block]:
    """The blocks of all pages, of some languages or of all."""
    found = [
        block
        for page in pages()
        for block in blocks_of(page.relative_to(REPO).as_posix(), page.read_text(encoding="utf-8"))
    ]
    return [block for block in found if not languages or block.language in languages]


def links_of(text: str) -> list[str]:
    """The targets of a text's links and pictures, but for those in code."""
    return LINK.findall(INLINE.sub("", FENCE.sub("", text)))


def anchors_of(text: str) -> set[str]:
    """What a link may name behind #: the headings, as MkDocs and GitHub write them, and ids in HTML."""
    prose = FENCE.sub("", text)
    return {_slug(heading) for heading in HEADING.findall(prose)} | set(NAMED.findall(prose))


def _slug(heading: str) -> str:
    words = LINK.sub(lambda link: link[0][1 : link[0].index("]")], heading)
    kept = re.sub(r"[^\w\s-]", "", words.replace("`", "")).strip().lower()
    return re.sub(r"\s", "-", kept)
