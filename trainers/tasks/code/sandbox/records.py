"""What goes into a sandbox and what comes out.

Nouns: *limits* are what a run may use; an *outcome* is what became of it; *unit tests* are statements that raise when
they fail.
"""

from dataclasses import dataclass, fields

MIB = 2**20


class SandboxError(RuntimeError):
    """The sandbox itself failed: nothing is known of the code."""


@dataclass(frozen=True)
class Limits:
    """What one run may use.

    Args:
        wall_seconds, cpu_seconds: of time; CPU time counts each process by itself, in whole seconds.
        memory_bytes: address space of each process, of which the interpreter takes about 30 MiB.
        disk_bytes, files: of everything in its temporary directory, which is memory.
        file_bytes: of one file.
        open_files: file descriptors of a process.
        processes: that run at a time, the first included; 1: it cannot start any.
        threads: that run at a time beside these.
        output_bytes: kept of each of stdout and stderr; what is beyond is read and dropped.

    Raises:
        ValueError: a limit that is not a positive number, or below what an interpreter needs.
    """

    wall_seconds: float = 3.0
    cpu_seconds: float = 1.0
    memory_bytes: int = 256 * MIB
    disk_bytes: int = 8 * MIB
    files: int = 64
    file_bytes: int = 4 * MIB
    open_files: int = 32
    processes: int = 1
    threads: int = 8
    output_bytes: int = 2**16

    def __post_init__(self):
        for limit in fields(self):
            least = {"memory_bytes": 64 * MIB, "open_files": 16, "threads": 0, "output_bytes": 0}.get(limit.name, 1)
            value = getattr(self, limit.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < float("inf"):
                raise ValueError(f"limits.{limit.name}={value!r}: expected a number from {least}")


@dataclass(frozen=True)
class UnitTests:
    """Tests of code.

    Args:
        tests: statements that raise when they fail, each seen passing or failing on its own.
        setup: what is run before them: imports, helpers.
        entry: names that are the tested code's even where the setup defines them.
    """

    tests: tuple[str, ...]
    setup: str = ""
    entry: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Attributes:
        status: "exited" by itself, "killed" by a signal, or "timeout" of the wall clock.
        exit_code: of the code; negative: the signal that killed it; None: unknown, as after a timeout.
        stdout, stderr: the first `Limits.output_bytes` of each.
        dropped_bytes: what there was beyond these.
        wall_seconds, cpu_seconds: what it took, the sandbox's own share included.
        passed: of each unit test.
        problem: why the tests could not be run, where their own setup fails; empty otherwise.
        outlived: something of the run still held its output open after the end.
    """

    status: str
    exit_code: int | None
    stdout: str
    stderr: str
    dropped_bytes: int
    wall_seconds: float
    cpu_seconds: float
    passed: tuple[bool, ...] = ()
    problem: str = ""
    outlived: bool = False


@dataclass(frozen=True)
class Run:
    """A piece of code with its tests, if it has any."""

    code: str
    tests: UnitTests | None = None
