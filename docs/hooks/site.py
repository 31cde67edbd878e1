"""MkDocs hook: pages that are generated, and links that leave docs/.

MkDocs calls the functions named on_... (https://www.mkdocs.org/dev-guide/plugins/#events). Generated are the options,
the commands and the API reference; recipes, changelog and contributing are files of the repository that lie elsewhere.
"""

import ast
import os
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))  # the options are read from the working tree, installed or not

import options_page  # noqa: E402  beside this file; MkDocs puts the folder on the path

RECIPES = "configs/recipes"
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?\)")  # relative ones


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put a page for each recipe where the navigation says `recipes/`."""
    for entry in config.nav or []:
        if isinstance(entry, dict) and entry.get("Recipes") == "recipes/":
            entry["Recipes"] = ["recipes/index.md", *(site for file, site in elsewhere().items() if RECIPES in file)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in docs/."""
    texts = {"options.md": options_page.page(), "commands.md": commands(), "recipes/index.md": recipes()}
    texts |= {f"api/{package}.md": api(package) for package in ("core", "trainers")}
    texts |= {site: (REPO / file).read_text(encoding="utf-8") for file, site in elsewhere().items()}
    for path, text in texts.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links between files of the repository links between pages; to what is no page, the file's name in words."""
    here = next((file for file, site in elsewhere().items() if site == page.file.src_uri), f"docs/{page.file.src_uri}")
    return relink(markdown, here, page.file.src_uri, {file.src_uri for file in files})


def relink(markdown: str, here: str, site: str, pages: set[str]) -> str:
    """The links of a text, for a page of the site: what MkDocs does not find afterwards is a broken link.

    Args:
        markdown: the text.
        here: its path in the repository, from which its links count.
        site: the page's path below docs/.
        pages: all paths below docs/ that the site has.
    """

    def moved(match: re.Match) -> str:
        image, words, target, anchor = match.groups("")
        path = Path(os.path.normpath(Path(here).parent / target))
        page = elsewhere().get(str(path)) or str(path).removeprefix("docs/")
        if page in pages:
            return f"{image}[{words}]({'../' * site.count('/')}{page}{anchor})"
        of_the_code = (REPO / path).exists() and path.parts[0] not in ("..", "docs")
        return words if of_the_code and not image else match[0]

    return LINK.sub(moved, markdown)


def elsewhere() -> dict[str, str]:
    """File of the repository -> page of the site, for texts that do not lie in docs/."""
    found = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
    for path in sorted((REPO / RECIPES).glob("*/README.md")):
        found[path.relative_to(REPO).as_posix()] = f"recipes/{path.parent.name}.md"
    return found


def recipes() -> str:
    """The page that lists the recipes, by their titles."""
    lines = [
        "# Recipes",
        "",
        "A recipe is a config for one model on one kind of machine, with the source of each number.",
        "",
    ]
    for file, site in elsewhere().items():
        if RECIPES in file:
            title = (REPO / file).read_text(encoding="utf-8").lstrip("# ").partition("\n")[0]
            lines.append(f"- [{title}]({Path(site).name})")
    return "\n".join(lines) + "\n"


def commands() -> str:
    """The page of all commands: the first paragraph of each script's docstring, and how it is called."""
    parts = ["# Commands", "", "Each command prints all its options with `--help`.", ""]
    for path in sorted((REPO / "scripts").glob("*.py")):
        first, _, rest = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n\n")
        parts += [f"## {path.stem}", "", " ".join(first.split()), "", rest.replace("\n    ", "\n    "), ""]
    return "\n".join(parts)


def api(package: str) -> str:
    """The page of a package's public names, those of its `__all__`, for mkdocstrings to fill."""
    source = ast.parse((REPO / package / "__init__.py").read_text(encoding="utf-8"))
    lists = {
        node.targets[0].id: node.value
        for node in source.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    homes = ast.literal_eval(lists["HOMES"]) if "HOMES" in lists else {}
    names = homes or dict.fromkeys(ast.literal_eval(lists["__all__"]), package)
    summary = (ast.get_docstring(source) or "").partition("\n\n")[0]
    parts = [f"# API of `{package}`", "", summary, ""]
    classes_first = sorted(names, key=str.isupper)
    return "\n".join([*parts, *(f"::: {names[name]}.{name}\n" for name in classes_first)])
