"""The launcher as its user sees it: a process that runs `launcher.py`, and the jobs that it is sent."""

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

LAUNCHER = Path(__file__).with_name("launcher.py")


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
                stdin=theirs.fileno(),
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
        """Close the socket, at which the launcher ends; the process that started it waits for that."""
        self._socket.close()
        if self._owner == os.getpid():
            self._process.wait()
