"""Seconds until a command has answered, when it has nothing to do: `--help`, a wrong key, a missing file."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from trainers.commands import make_folder

CONFIG = "configs/trajectory_nelbo_gsm8k.yaml"
# what is asked -> the words behind the script, in which {config} is a config that is there
ASKED = {
    "--help": ["--help"],
    "a wrong key": ["{config}", "--los.alpha_min", "0.1"],
    "a missing file": ["nowhere.yaml"],
}
# what stands before a config; a command that is not listed takes it first
BEFORE = {"plan": ["tiny", "1xcpu", "1h"]}


def startup(chosen: argparse.Namespace) -> None:
    """Time each command with each question, by turns, in new processes; print a table."""
    if chosen.output is not None:
        make_folder("--output", chosen.output, chosen.output)
    cases = [(command, asked) for command in chosen.commands for asked in ASKED]
    seconds: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    for _ in range(chosen.repeats):
        for case in cases:
            seconds[case].append(answer_seconds(chosen.root, *case))
    table = Table(title=f"seconds to an answer, median (least-largest) of {chosen.repeats} by turns", box=SIMPLE)
    for heading in ("command", *ASKED):
        table.add_column(heading)
    for command in chosen.commands:
        table.add_row(command, *(_shown(seconds[command, asked]) for asked in ASKED))
    Console().print(table)
    if chosen.output is not None:
        rows = [{"command": c, "asked": a, "seconds": found} for (c, a), found in seconds.items()]
        (chosen.output / "results.json").write_text(json.dumps({"rows": rows}, indent=2))


def answer_seconds(root: Path, command: str, asked: str) -> float:
    """Wall time of one new process, from its start to its end."""
    words = [word.format(config=root / CONFIG) for word in ASKED[asked]]
    before = [] if asked == "--help" else BEFORE.get(command, [])
    argv = [sys.executable, str(root / "scripts" / f"{command}.py"), *before, *words]
    started = time.perf_counter()
    subprocess.run(argv, capture_output=True, env=os.environ | {"PYTHONPATH": str(root)})
    return time.perf_counter() - started


def _shown(found: list[float]) -> str:
    return f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})"
