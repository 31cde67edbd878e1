"""Processes of a sandboxed run, found by a limit that has no effect and marks them."""

import re
from pathlib import Path


def processes_with(mark: int) -> list[int]:
    """Processes that may write files of this size."""
    found = []
    for path in Path("/proc").glob("[0-9]*/limits"):
        try:
            found += [int(path.parent.name)] if re.search(rf"Max file size +{mark} ", path.read_text()) else []
        except OSError:
            continue
    return found


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
