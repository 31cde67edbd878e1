"""The manifest of a checkpoint: sizes and SHA-256 sums of its files.

Of what a checkpoint holds only the `.pt` files carry checksums of their own (they are zip archives): a flipped byte in
a safetensors payload would otherwise be trained on.
"""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MANIFEST = "manifest.json"
READERS = 4  # threads: hashing releases the GIL
UNREAD = (".md",)  # a model card is for people: who edits it has damaged nothing


def _listed(directory: Path) -> list[Path]:
    """The files that a resume may read, those of sub-directories too."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.suffix not in UNREAD)
    return sorted(path for path in files if path != directory / MANIFEST)


def _sums(paths: Iterable[Path]) -> list[str]:
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(_sha256, paths))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(directory: Path) -> None:
    """List what ``directory`` holds."""
    paths = _listed(directory)
    files = {
        path.relative_to(directory).as_posix(): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, _sums(paths), strict=True)
    }
    (directory / MANIFEST).write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf-8")


def damage(directory: Path) -> str | None:
    """The first file that is not as the manifest says, "NAME is missing" or "NAME is damaged (...)"; None: all are.

    Raises:
        FileNotFoundError: there is no manifest.
    """
    try:
        files = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["files"]
        expected = {directory / name: (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} is damaged ({error})"
    for path, (size, _) in expected.items():  # the cheap look first
        name = path.relative_to(directory).as_posix()
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} is damaged ({path.stat().st_size} bytes, {size} were written)"
    for (path, (_, digest)), found in zip(expected.items(), _sums(expected), strict=True):
        if found != digest:
            return f"{path.relative_to(directory).as_posix()} is damaged (its SHA-256 is another)"
    return None
