"""Runs untrusted Python in processes of its own, and says what became of it.

Nouns: a *mode* is which walls the platform lets us build, *layers* are those that every process puts around itself.

The process that calls this is never forked: a launcher is started once (`launcher.py`), in an isolated interpreter
without site-packages, and forks itself for each run. So it is safe beside threads and accelerators.
"""

import json
import os
import shutil
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field

from trainers.tasks.code.sandbox.jobs import Job, Launcher
from trainers.tasks.code.sandbox.records import Limits, Outcome, Run, SandboxError
from trainers.tasks.code.sandbox.reports import Stream, outcome_of, read_all

MODES = ("root", "user", "nobody", "plain")  # best first: namespaces with root's rights or without, another user, none
LAYERS = frozenset({"rlimits", "landlock", "seccomp"})
GRACE = 10.0  # seconds after its wall-clock limit at which a launcher that did not end the run is killed itself
REPORT_BYTES = 2**20


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
    """Runs code behind given walls. What they hold is not checked here: see `trainers.tasks.code.sandbox.opening`.

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
            streams = [Stream(file, most) for file, most in zip(files, kept, strict=True)]
            ended = read_all(streams, started + self.limits.wall_seconds + GRACE)
        return outcome_of(run, streams, outlived=not ended, wall_seconds=time.monotonic() - started)


def _in_memory(text: str) -> int:
    """A file without a name, at its beginning."""
    descriptor = os.memfd_create("job")
    with open(descriptor, "w", encoding="utf-8", errors="replace", closefd=False) as file:
        file.write(text)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
