"""What a probe plants outside for an attack to reach: files, listeners and a sentinel process."""

import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Surroundings:
    """What is planted outside, with how to see whether it was touched."""

    directory: Path
    word: str
    listeners: dict[str, socket.socket]
    sentinel: subprocess.Popen

    def touched(self) -> dict[str, str]:
        """What was reached, by kind (network, files_write, signals), with one phrase each; empty if nothing was."""
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
    """Plant everything, open to all: only the walls keep the code out."""
    word = secrets.token_hex(16)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sandbox-probe-")))
        directory.chmod(0o755)
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
