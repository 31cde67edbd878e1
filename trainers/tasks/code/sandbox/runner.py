"""Runs untrusted Python in processes of its own, and says what became of it.

Nouns: a *mode* is which walls the platform lets us build, *layers* are those that every process puts around itself.

The process that calls this is never forked: a launcher is started once (`launcher.py`), in an isolated interpreter
without site-packages, and forks itself for each run. So it is safe beside threads and accelerators.
"""

import atexit
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from trainers.tasks.code.sandbox.records import Limits, Outcome, Run, SandboxError

LAUNCHER = Path(__file__).with_name("launcher.py")
MODES = ("root", "user", "nobody", "plain")  # best first: namespaces with root's rights or without, another user, none
LAYERS = frozenset({"rlimits", "landlock", "seccomp"})
GRACE = 10.0  # seconds after its wall-clock limit at which a launcher that did not end the run is killed itself
LINGER = 1.0  # seconds that the output of a run may stay open after its end
CHUNK = 2**16
REPORT_BYTES = 2**20


@dataclass(frozen=True)
class Job:
    """What a launcher is told of a run. Code, tests and pipes come beside it, as open files."""

    mode: str
    layers: list[str]
    limits: dict[str, float]
    readable: list[str]
    scratch: str


class Launcher:
    """A launcher that is running, and the socket that takes its jobs; it ends when the socket is closed.

    Args:
        script: `launcher.py`.
    """

    _lock = threading.Lock()
    _current: "Launcher | None" = None

    def __init__(self, script: Path):
        self._owner, self._script = os.getpid(), script
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # the interpreter itself, not the one of a virtual environment, whose files are out of sight
        interpreter = getattr(sys, "_base_executable", sys.executable)
        with theirs:
            self._process = subprocess.Popen(
                [interpreter, "-I", "-S", str(script)],
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                env={"LC_ALL": "C.UTF-8"},
                cwd="/",
                start_new_session=True,
            )
        atexit.register(self.close)

    @classmethod
    def running(cls) -> "Launcher":
        """The launcher of this process, a new one where there is none or it has died."""
        with cls._lock:
            launcher = cls._current
            if launcher is None or not launcher._serves():
                launcher = cls._current = cls(LAUNCHER)
            return launcher

    def _serves(self) -> bool:
        return self._owner == os.getpid() and self._script == LAUNCHER and self._process.poll() is None

    def send(self, job: Job, files: list[int]) -> None:
        """Hand over a job with its open files, in the order of `launcher.FILES`; OSError if nobody is there."""
        socket.send_fds(self._socket, [json.dumps(asdict(job)).encode()], files)

    def close(self) -> None:
        self._socket.close()
        if self._owner == os.getpid():
            self._process.wait()


def readable_paths() -> list[str]:
    """What the code can read of this machine: the standard library and shared libraries, no path inside another."""
    paths = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.dirname(os.__file__)]
    paths += [sysconfig.get_config_var("LIBDIR") or "", "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"]
    found: list[str] = []
    for path in sorted({os.path.normpath(path) for path in paths if path and os.path.exists(path)}):
        if not any(path.startswith(f"{other}/") for other in found):
            found.append(path)
    return found


@dataclass(frozen=True)
class Runner:
    """Runs code behind given walls. What they hold is not checked here: see `trainers.tasks.code.sandbox.probing`.

    Args:
        limits: of every run.
        mode: one of `MODES`.
        layers: some of `LAYERS`.
        workers: runs at a time.
    """

    limits: Limits = field(default_factory=Limits)
    mode: str = MODES[0]
    layers: frozenset[str] = LAYERS
    workers: int = 1

    def run(self, run: Run) -> Outcome:
        """Run once.

        Raises:
            SandboxError: the sandbox could not be built.
        """
        for attempts_left in (1, 0):  # a machine may be out of processes for a moment
            scratch = tempfile.mkdtemp(prefix="sandbox-")
            try:
                return self._run_in(scratch, run)
            except SandboxError:
                if not attempts_left:
                    raise
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        raise AssertionError("unreachable")

    def run_all(self, runs: Sequence[Run]) -> Iterator[Outcome]:
        """Run all, `workers` at a time; the outcomes in the order of the runs. Who stops listening stops the rest."""
        pool = ThreadPoolExecutor(self.workers)
        try:
            yield from pool.map(self.run, runs)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _run_in(self, scratch: str, run: Run) -> Outcome:
        started = time.monotonic()
        job = Job(self.mode, sorted(self.layers), asdict(self.limits), readable_paths(), scratch)
        pipes = [os.pipe() for _ in ("stdout", "stderr", "result")]
        with ExitStack() as ours:
            files = [ours.enter_context(os.fdopen(reading, "rb", buffering=0)) for reading, _ in pipes]
            theirs = [writing for _, writing in pipes]
            theirs.append(_in_memory(run.code))
            if run.tests is not None:
                theirs.append(_in_memory(json.dumps(asdict(run.tests))))
            try:
                Launcher.running().send(job, theirs)
            except OSError as error:
                raise SandboxError(f"sandbox: the launcher does not run: {error}") from error
            finally:
                for descriptor in theirs:
                    os.close(descriptor)
            kept = (self.limits.output_bytes, self.limits.output_bytes, REPORT_BYTES)
            streams = [_Stream(file, most) for file, most in zip(files, kept, strict=True)]
            ended = _read_all(streams, started + self.limits.wall_seconds + GRACE)
        return _outcome(run, streams, outlived=not ended, wall_seconds=time.monotonic() - started)


class _Stream:
    """What comes out of a pipe, up to a number of bytes."""

    def __init__(self, file: IO[bytes], most: int):
        self.descriptor, self.most, self.kept, self.dropped = file.fileno(), most, bytearray(), 0

    def read(self) -> bool:
        """Take what is there; False at the end."""
        chunk = os.read(self.descriptor, CHUNK)
        room = self.most - len(self.kept)
        self.kept += chunk[:room]
        self.dropped += max(0, len(chunk) - room)
        return bool(chunk)

    @property
    def text(self) -> str:
        return self.kept.decode(errors="replace")


def _read_all(streams: list[_Stream], deadline: float) -> bool:
    """Read all streams to their end; the last is the reports', after whose end the others may linger only a little.

    Returns:
        Whether all ended in time.
    """
    with selectors.DefaultSelector() as waiting:
        for stream in streams:
            waiting.register(stream.descriptor, selectors.EVENT_READ, stream)
        while waiting.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            for key, _ in waiting.select(left):
                if not key.data.read():
                    waiting.unregister(key.fd)
                    if key.data is streams[-1]:
                        deadline = min(deadline, time.monotonic() + LINGER)
    return True


def _outcome(run: Run, streams: list[_Stream], *, outlived: bool, wall_seconds: float) -> Outcome:
    """Put together what judge and launcher reported.

    Raises:
        SandboxError: the launcher did not get to its last report.
    """
    stdout, stderr, reports = streams
    facts: dict[str, Any] = {}
    passed = [False] * len(run.tests.tests if run.tests else ())
    for report in map(json.loads, reports.text.splitlines()):
        if "test" in report:
            passed[report["test"]] = report["passed"]
        facts |= report
    if "in_time" not in facts:
        if outlived and "launcher" in facts:  # it is still there
            os.kill(facts["launcher"], signal.SIGKILL)
        raise SandboxError(f"sandbox: {facts.get('broken') or stderr.text.strip() or 'the launcher was killed'}")
    exit_code = facts.get("exit_code")
    killed = exit_code is not None and exit_code < 0
    return Outcome(
        status="timeout" if not facts["in_time"] else "killed" if killed else "exited",
        exit_code=exit_code,
        stdout=stdout.text,
        stderr=stderr.text,
        dropped_bytes=stdout.dropped + stderr.dropped,
        wall_seconds=wall_seconds,
        cpu_seconds=facts["cpu_seconds"],
        passed=tuple(passed),
        problem=facts.get("setup", ""),
        outlived=outlived,
    )


def _in_memory(text: str) -> int:
    """A file without a name, at its beginning."""
    descriptor = os.memfd_create("job")
    with open(descriptor, "w", encoding="utf-8", errors="replace", closefd=False) as file:
        file.write(text)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
