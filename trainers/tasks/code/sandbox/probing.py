"""What walls hold, found out by attacking from inside.

A guarantee holds if the attack was tried and had no effect, as seen from outside where that can be seen: at a
listener, in a directory, on a sentinel process. Versions are not asked.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainers.tasks.code.sandbox import attacks
from trainers.tasks.code.sandbox.planting import plant
from trainers.tasks.code.sandbox.records import Limits, Outcome, Run
from trainers.tasks.code.sandbox.runner import Runner, readable_paths

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
