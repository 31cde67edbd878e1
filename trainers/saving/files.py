"""Writing a file that its readers never find half written."""

import os
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Write beside, then rename: a reader finds the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.write_bytes(content)
    os.replace(beside, path)
