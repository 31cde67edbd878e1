"""What the walls of this platform hold, found out by attacking from inside: once a process, in about two seconds.

A guarantee holds if the attack was tried and had no effect, as seen from outside where that can be seen: at a
listener, in a directory, on a sentinel process. Versions are not asked.
"""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from trainers.tasks.code.sandbox import attacks
from trainers.tasks.code.sandbox.records import Limits, Outcome, Run, SandboxError
from trainers.tasks.code.sandbox.runner import LAYERS, MODES, Runner, readable_paths

# guarantee -> what it promises
GUARANTEES = {
    "network": "no connection, also not to this machine",
    "files_read": "no file but the standard library, shared libraries and the run's own directory",
    "files_write": "no change outside the run's own directory",
    "disk": "a bound on its files, one by one, together, and in number",
    "processes": "a bound on processes and threads",
    "memory": "a bound on memory",
    "cpu": "a bound on CPU time",
    "signals": "no signal to a process outside",
    "output": "a bound on what is kept of its output",
    "escape": "nothing of it outlives the run, which ends in time",
}
LIMITS = Limits(wall_seconds=20.0, cpu_seconds=10.0)  # of probes: a busy machine must not look like a broken one
SPINNING = replace(LIMITS, cpu_seconds=1.0)
SLEEPING = replace(LIMITS, wall_seconds=1.5)
FORKING = replace(LIMITS, processes=4, threads=4)


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


def probe(mode: str, layers: frozenset[str]) -> dict[str, str]:
    """Attack a mode with some layers; the guarantees that do not hold, with how they were broken."""
    probes = (_surroundings, _processes, _spinning, _sleeping)
    missing: dict[str, str] = {}
    with ThreadPoolExecutor(len(probes)) as pool:
        for found in pool.map(lambda attack: attack(mode, layers), probes):
            missing = found | missing
    return {name: missing[name] for name in GUARANTEES if name in missing}


def _attack(mode: str, layers: frozenset[str], limits: Limits, program: str, **facts: Any) -> Outcome:
    return Runner(limits, mode, layers).run(Run(f"FACTS = {facts!r}\n{program}"))


@dataclass
class Surroundings:
    """What is planted outside, with how to see whether it was touched."""

    directory: Path
    word: str
    listeners: dict[str, socket.socket]
    sentinel: subprocess.Popen

    def touched(self) -> dict[str, str]:
        found = {}
        reached = [name for name, listener in self.listeners.items() if _was_reached(listener)]
        if reached:
            found["network"] = f"a listener was reached: {', '.join(reached)}"
        if (self.directory / "outside" / "written").exists():
            found["files_write"] = "a file was written outside"
        if self.sentinel.poll() is not None:
            found["signals"] = "a process outside was killed"
        return found


def _was_reached(listener: socket.socket) -> bool:
    try:
        if listener.type == socket.SOCK_DGRAM:
            listener.recv(16)
        else:
            listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@contextmanager
def plant() -> Iterator[Surroundings]:
    word = secrets.token_hex(16)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sandbox-probe-")))
        directory.chmod(0o755)  # only the walls keep the code out
        (directory / "secret").write_text(word)
        (directory / "outside").mkdir()
        (directory / "outside").chmod(0o777)
        listeners = {}
        for name, family, kind, address in (
            ("tcp", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            ("udp", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            ("unix", socket.AF_UNIX, socket.SOCK_STREAM, str(directory / "socket")),
            ("abstract", socket.AF_UNIX, socket.SOCK_STREAM, f"\0{word}"),
        ):
            listener = listeners[name] = stack.enter_context(socket.socket(family, kind))
            listener.bind(address)
            listener.setblocking(False)
            if kind == socket.SOCK_STREAM:
                listener.listen()
        (directory / "socket").chmod(0o777)
        command = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]
        sentinel = stack.enter_context(subprocess.Popen(command, stdin=subprocess.DEVNULL))
        stack.callback(sentinel.kill)
        yield Surroundings(directory, word, listeners, sentinel)


def _hidden(home: Path) -> list[str]:
    """What the code must not see of a directory: all but what leads to a readable path, such as an interpreter's."""
    try:
        return [
            path.name for path in home.iterdir() if not any(Path(p).is_relative_to(path) for p in readable_paths())
        ]
    except OSError:
        return []


def _surroundings(mode: str, layers: frozenset[str]) -> dict[str, str]:
    with plant() as planted:
        outcome = _attack(
            mode,
            layers,
            LIMITS,
            attacks.SURROUNDINGS,
            tcp=planted.listeners["tcp"].getsockname()[1],
            udp=planted.listeners["udp"].getsockname()[1],
            unix=str(planted.directory / "socket"),
            abstract=planted.word,
            secret=str(planted.directory / "secret"),
            word=planted.word,
            home=str(Path.home()),
            hidden=_hidden(Path.home()),
            outside=str(planted.directory / "outside"),
            pid=os.getpid(),
            sentinel=planted.sentinel.pid,
            memory_bytes=LIMITS.memory_bytes,
            file_bytes=LIMITS.file_bytes,
            disk_bytes=LIMITS.disk_bytes,
            files=LIMITS.files,
        )
        found = planted.touched()
    lines = outcome.stdout.splitlines()
    if any(line.startswith("files_read:") and planted.word in line for line in lines):
        found["files_read"] = "a file outside was read"
    for line in lines:
        name, _, reason = line.partition(": ")
        if name in ("memory", "disk"):
            found.setdefault(name, "twice the limit was allocated" if name == "memory" else reason)
    if "done" not in lines:
        untried = ("network", "files_read", "files_write", "signals", "memory", "disk")
        found = dict.fromkeys(untried, f"the attack ended early: {outcome.status} {outcome.exit_code}") | found
    return found


def _processes(mode: str, layers: frozenset[str]) -> dict[str, str]:
    allowed = FORKING.processes + FORKING.threads
    outcome = _attack(mode, layers, FORKING, attacks.PROCESSES, tries=4 * allowed, outlive=4.0)
    counts = [line.split()[1] for line in outcome.stdout.splitlines() if line.startswith("tasks")]
    found = {}
    if not counts or int(counts[0]) > allowed:
        found["processes"] = f"{counts[0] if counts else 'too many'} were started where {allowed} are allowed"
    if outcome.outlived or outcome.status != "exited":
        found["escape"] = "a process outlived its run"
    return found


def _spinning(mode: str, layers: frozenset[str]) -> dict[str, str]:
    outcome = _attack(mode, layers, SPINNING, attacks.SPINNING)
    return {} if outcome.status == "killed" else {"cpu": f"a loop went on past {SPINNING.cpu_seconds:.0f} s"}


def _sleeping(mode: str, layers: frozenset[str]) -> dict[str, str]:
    outcome = _attack(mode, layers, SLEEPING, attacks.SLEEPING, flood=4 * SLEEPING.output_bytes)
    found = {}
    if len(outcome.stdout) > SLEEPING.output_bytes:
        found["output"] = "all of a flood was kept"
    if outcome.status != "timeout" or outcome.outlived:
        found["escape"] = "a run did not end in time"
    return found


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
