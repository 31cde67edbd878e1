"""Opening the sandbox: the best walls that this platform lets us build, tried once a process, in about two seconds.

Versions are not asked: a guarantee holds where the attacks of `trainers.tasks.code.sandbox.probing` had no effect.
"""

import sys
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

from trainers.tasks.code.sandbox.probing import GUARANTEES, LIMITS, probe
from trainers.tasks.code.sandbox.records import Limits, Run, SandboxError
from trainers.tasks.code.sandbox.runner import LAYERS, MODES, Runner


@dataclass(frozen=True)
class Walls:
    """What was found on a platform.

    Attributes:
        mode, layers: see `Runner`.
        missing: guarantee -> how it was broken.
    """

    mode: str
    layers: frozenset[str]
    missing: dict[str, str]


@cache
def walls() -> Walls:
    """The best walls that this platform lets an ordinary process build, and what they do not hold."""
    if sys.platform != "linux":
        reason = f"{sys.platform} has none of namespaces, Landlock and seccomp"
        return Walls("", frozenset(), dict.fromkeys(GUARANTEES, reason))
    mode = next((mode for mode in MODES if _works(mode, frozenset())), None)
    if mode is None:
        return Walls("", frozenset(), dict.fromkeys(GUARANTEES, "no isolated interpreter could be started"))
    layers = frozenset(layer for layer in LAYERS if _works(mode, frozenset({layer})))
    return Walls(mode, layers, probe(mode, layers))


def _works(mode: str, layers: frozenset[str]) -> bool:
    try:
        return Runner(LIMITS, mode, layers).run(Run("import math")).exit_code == 0
    except SandboxError:
        return False


def open_sandbox(limits: Limits | None = None, allow_unenforced: Collection[str] = (), workers: int = 1) -> Runner:
    """A runner whose walls were tried.

    Args:
        limits: of every run.
        allow_unenforced: guarantees, by name, that may be missing.
        workers: runs at a time.

    Raises:
        ValueError: a guarantee is missing and not allowed to be, or a name is none of `GUARANTEES`.
    """
    allow_unenforced = [allow_unenforced] if isinstance(allow_unenforced, str) else list(allow_unenforced)
    unknown = [name for name in allow_unenforced if name not in GUARANTEES]
    if unknown:
        raise ValueError(f"allow_unenforced={unknown[0]!r}: expected some of {', '.join(GUARANTEES)}")
    found = walls()
    missing = {name: reason for name, reason in found.missing.items() if name not in allow_unenforced}
    if missing or not found.mode:
        told = "; ".join(f"{name} ({reason})" for name, reason in (missing or found.missing).items())
        way_out = "run where they hold (docs/sandbox.md)"
        way_out += f", or set allow_unenforced: [{', '.join(missing)}]" if found.mode else ""
        raise ValueError(f"sandbox: this platform does not enforce {told}; {way_out}")
    if found.missing:
        told = "; ".join(f"{name} ({reason})" for name, reason in found.missing.items())
        warnings.warn(f"sandbox: not enforced here, as allowed by name: {told}", stacklevel=2)
    return Runner(limits or Limits(), found.mode, found.layers, workers)
