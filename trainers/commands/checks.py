"""What the text of an option must be, checked before the work begins."""

import argparse
from pathlib import Path

from trainers.settings.options import ConfigError


def at_least(least: int, text: str) -> int:
    """A whole number of a command line."""
    if not (text.isdecimal() and int(text) >= least):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def make_folder(option: str, path: Path, folder: Path) -> None:
    """Make the folder that a result is to go to, before the work: one that cannot be made fails now.

    Args:
        option: that asks for it.
        path: what it was given.
        folder: to be made.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error}") from error
