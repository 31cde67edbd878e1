"""What comes out of a run: its output and the reports of judge and launcher, put together as an outcome."""

import json
import os
import selectors
import signal
import time
from typing import IO, Any

from trainers.tasks.code.sandbox.records import Outcome, Run, SandboxError

LINGER = 1.0  # seconds that the output of a run may stay open after its end
CHUNK = 2**16


class Stream:
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
        """What was kept, as UTF-8 with other bytes replaced."""
        return self.kept.decode(errors="replace")


def read_all(streams: list[Stream], deadline: float) -> bool:
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


def outcome_of(run: Run, streams: list[Stream], *, outlived: bool, wall_seconds: float) -> Outcome:
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
