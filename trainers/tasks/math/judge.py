"""Judges mathematical answers in a worker process that can be killed: `trainers.tasks.math.worker`.

The limits of one comparison: `CPU_SECONDS` of processor time, after which the kernel ends the worker in the middle of
whatever it does; `WALL_SECONDS` on the clock, should it wait rather than work; `MEMORY_BYTES` of address space; texts
of `MAX_LENGTH` characters, longer ones being wrong unread. Whoever exceeds a limit, crashes the worker or raises an
error in the library is wrong, is counted, and costs nobody else more than the start of a new worker (`Judge.counts`).

An outcome depends on the two texts alone: the worker's hash seed is fixed, the limit is of processor time, and every
outcome is remembered. What takes almost exactly `CPU_SECONDS` may differ between two machines.
"""

import atexit
import contextlib
import importlib.util
import json
import os
import select
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

WORKER = Path(__file__).with_name("worker.py")
CPU_SECONDS = 2.0
WALL_SECONDS = 60.0  # only for a worker that waits; long enough for a machine with thirty runnable processes a core
START_SECONDS = 300.0  # the import of sympy
MEMORY_BYTES = 2 * 2**30
MAX_LENGTH = 2000  # characters
MAX_REMEMBERED = 100_000  # outcomes

MISSING = "answers are judged by the package math-verify: pip install 'trajectory-nelbo[math]'"


class Judge:
    """Compares answers; one worker at a time, started when it is first needed, and again after a kill or a fork.

    Args:
        cpu_seconds: of processor time for one comparison.
        wall_seconds: on the clock.
        memory_bytes: address space of the worker.

    Attributes:
        counts: comparisons by outcome: "judged"; "stopped" at a limit or crashed, which takes the worker along;
            "failed", by an error in the library; "unread", too long. Remembered ones count once.
    """

    def __init__(
        self, cpu_seconds: float = CPU_SECONDS, wall_seconds: float = WALL_SECONDS, memory_bytes: int = MEMORY_BYTES
    ):
        self.cpu_seconds, self.wall_seconds, self.memory_bytes = cpu_seconds, wall_seconds, memory_bytes
        self.counts: Counter[str] = Counter()
        self._remembered: dict[tuple[str, str], bool] = {}
        self._lock = threading.Lock()
        self._worker: subprocess.Popen | None = None
        self._owner = 0  # a forked process must not talk to its parent's worker
        atexit.register(self.close)

    def is_equal(self, expected: str, text: str) -> bool:
        """Whether math-verify finds in a LaTeX text what is expected.

        Raises:
            ImportError: math-verify is not installed, or its worker does not start.
        """
        with self._lock:
            key = (expected, text)
            if key not in self._remembered:
                if len(self._remembered) >= MAX_REMEMBERED:
                    self._remembered.clear()
                self._remembered[key] = self._compare(expected, text)
            return self._remembered[key]

    def close(self) -> None:
        """End the worker; the next comparison starts another."""
        worker, self._worker = self._worker, None
        if worker is None or self._owner != os.getpid():
            return
        worker.kill()
        worker.wait()
        for pipe in (worker.stdin, worker.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # what it was asked and never read is flushed
                pipe.close()

    def _compare(self, expected: str, text: str) -> bool:
        if max(len(expected), len(text)) > MAX_LENGTH:
            self.counts["unread"] += 1
            return False
        outcome = self._ask(json.dumps([expected, text]))
        if outcome is None:
            self.close()
        self.counts[{bool: "judged", str: "failed"}.get(type(outcome), "stopped")] += 1
        return outcome is True

    def _ask(self, question: str) -> bool | str | None:
        """The worker's outcome; None where it was stopped."""
        worker = self._running()
        assert worker.stdin is not None
        try:
            worker.stdin.write(f"{question}\n".encode())
            worker.stdin.flush()
        except BrokenPipeError:
            return None
        return _answer_of(worker, self.wall_seconds)

    def _running(self) -> subprocess.Popen:
        if self._worker is None or self._owner != os.getpid():
            check_installed()
            limits = [str(self.cpu_seconds), str(self.memory_bytes)]
            # -P: the folder of the worker, with its fractions.py, is no place to import from
            self._worker = subprocess.Popen(
                [sys.executable, "-s", "-P", str(WORKER), *limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": "0", "PYTHONPATH": os.environ.get("PYTHONPATH", ""), "LC_ALL": "C.UTF-8"},
            )
            self._owner = os.getpid()
            if _answer_of(self._worker, START_SECONDS) != "ready":
                self.close()
                raise ImportError(f"{MISSING}; it is there, but its worker did not start")
        return self._worker


def check_installed() -> None:
    """Raise ImportError, with what to install, where math-verify is missing."""
    if importlib.util.find_spec("math_verify") is None:
        raise ImportError(MISSING)


def _answer_of(worker: subprocess.Popen, seconds: float) -> bool | str | None:
    """A line of the worker; None where none comes in time, or none at all."""
    assert worker.stdout is not None
    ready, _, _ = select.select([worker.stdout], [], [], seconds)
    line = worker.stdout.readline() if ready else b""
    return json.loads(line) if line.endswith(b"\n") else None
