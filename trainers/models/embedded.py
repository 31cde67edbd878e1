"""Names that stand for a checkpoint on this machine, and where it is."""

from collections.abc import Callable
from pathlib import Path

from trainers.models import smollm2
from trainers.models.tiny import TINY, TINY_ASSETS

EMBEDDED: dict[str, Callable[[], Path]] = {TINY: lambda: TINY_ASSETS, smollm2.SMOLLM2: smollm2.checkpoint}


def place_of(name: str) -> str:
    """The directory that an embedded name stands for; any other name as it is."""
    return str(EMBEDDED[name]()) if name in EMBEDDED else name
