"""A directory is written beside its place and renamed into it: after a SIGKILL at any moment it is whole or not there.

`PARTIAL` lies in the directory of the run, thus on the same file system, and its name is none that transformers takes
for a checkpoint. What was at the place before is renamed aside first and deleted last.
"""

import os
from contextlib import suppress
from pathlib import Path
from shutil import rmtree

PARTIAL = ".partial"
REPLACED = ".replaced"  # suffix of what was at the place before


def staged(final: Path) -> Path:
    """Where ``final`` is written first."""
    return final.parent / PARTIAL / final.name


def publish(final: Path) -> None:
    """Move what was staged for ``final`` into place, once it is on the disk."""
    source = staged(final)
    old = source.with_name(source.name + REPLACED)
    _sync(source)
    if final.exists():
        os.rename(final, old)
    os.rename(source, final)
    _sync_entry(final.parent)
    rmtree(old, ignore_errors=True)
    with suppress(OSError):  # another save may be on its way in it
        source.parent.rmdir()


def recover(run: Path) -> None:
    """Put back what a killed `publish` had renamed aside, and delete what it never finished."""
    partial = run / PARTIAL
    for old in partial.glob(f"*{REPLACED}"):
        final = run / old.name.removesuffix(REPLACED)
        if not final.exists():
            os.rename(old, final)
    rmtree(partial, ignore_errors=True)


def _sync(directory: Path) -> None:
    """fsync every file beneath, then the directories."""
    for parent, _, names in os.walk(directory, topdown=False):
        for name in names:
            _sync_entry(Path(parent) / name)
        _sync_entry(Path(parent))


def _sync_entry(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
