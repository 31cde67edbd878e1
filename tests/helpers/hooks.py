"""The files of docs/hooks, which MkDocs loads by their paths and which are no package."""

import importlib.util
import sys
from types import ModuleType

from paths import REPO

FOLDER = REPO / "docs" / "hooks"


def hook(name: str) -> ModuleType:
    """A module of docs/hooks, with those beside it to import from."""
    spec = importlib.util.spec_from_file_location(f"docs_hooks_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(FOLDER))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module
