"""The commands of a ```bash block, as bash itself would call them: variables, quotes, && and line breaks resolved.

A block is run by bash with a PATH of stand-ins that write down how they were called and do nothing else; tools that
only touch the working folder (cp, mkdir, ...) are the real ones. A command that is in neither list ends the block with
an error, so that nobody writes one that is not looked at.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

REAL = ("cp", "mkdir", "cat", "ls", "head", "tail", "rm", "nproc", "dirname", "basename")
# what is written down; those that no test runs have a reason, the others are looked into by `shown`
STAND_INS = {
    "python": "",
    "python3": "",
    "torchrun": "",
    "accelerate": "",
    "make": "",
    "trajectory-nelbo": "",
    "sbatch": "",
    "srun": "needs Slurm",
    "pip": "installs from a package index",
    "git": "clones over a network",
    "cd": "",
    "tensorboard": "serves until it is stopped",
    "wandb": "needs an account",
    "jupyter": "serves until it is stopped",
    "mkdocs": "run by its own test",
    "nvidia-smi": "needs a GPU",
}
STAND_IN = """#!/bin/sh
{ printf '%s\\0' "${0##*/}" "$@"; printf '\\n\\0'; } >> "$RECORD"
"""

# words in capitals stand for something of the reader's: what the tests put in their place
PLACEHOLDERS = {
    "CONFIG": "configs/trajectory_nelbo_gsm8k.yaml",
    "CONFIG.yaml": "configs/trajectory_nelbo_gsm8k.yaml",
    "configs/x.yaml": "configs/trajectory_nelbo_gsm8k.yaml",
    "MODEL": "tiny",
    "DIR": "runs/x/model",
    "SEED": "0",
    "SCHEDULE": "linear",
    "LEVEL": "token",
    "BETA": "0.01",
    "MU": "2",
    "RATIO": "plain",
    "TASK": "arc_easy",
    "N": "2",
}


@dataclass(frozen=True)
class Call:
    """One call of a command: its name first."""

    words: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.words)


def calls(text: str, folder: Path) -> list[Call]:
    """What the commands of a block were called with, in order.

    Args:
        text: of the block.
        folder: where it runs; its file ``.calls`` is written.

    Raises:
        AssertionError: bash, or a command that is not known here, failed.
    """
    record = folder / ".calls"
    record.write_bytes(b"")
    bash = shutil.which("bash")
    assert bash, "the blocks are run by bash"
    environment = {"PATH": str(stand_ins(folder)), "RECORD": str(record), "HOME": os.environ.get("HOME", "")}
    command = [bash, "--norc", "-eu", "-o", "pipefail", "-c", text]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{done.stderr.strip()}\nA new command goes into {__name__}.STAND_INS or REAL."
    listed = record.read_bytes().split(b"\0\n\0")[:-1]
    return [Call(tuple(word.decode() for word in one.split(b"\0"))) for one in listed]


def stand_ins(folder: Path) -> Path:
    """The folder of the stand-ins, made once."""
    where = folder / ".bin"
    if not where.exists():
        where.mkdir()
        for name in STAND_INS.keys() - {"cd"}:
            (where / name).write_text(STAND_IN)
            (where / name).chmod(0o755)
        for name in REAL:
            (where / name).symlink_to(shutil.which(name) or name)
    return where
