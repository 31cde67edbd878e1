"""`rollouts.jsonl` of a GRPO run: a few groups of completions with their rewards, and how each was written.

One JSON line a group:

rollout       number of the rollout in the run, from 0
step          optimiser steps made before it
group         its place in the rollout, from 0
prompt        the text behind which the completions start
size          completions of the group; the lists below hold the first `SHOWN` at most
rewards       name -> one value a completion; null: the reward had none
advantages    one a completion, TRL's
completions   one `trainers.evaluating.playback.Playback` a completion

A resumed run goes on with the file: what it does again is written once.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainers.saving.files import replace_file

ROLLOUTS_FILE = "rollouts.jsonl"
GROUPS = 2  # of a recorded rollout
SHOWN = 16  # completions of a group


class RolloutLog:
    """The file of one run.

    Args:
        directory: of the run.
    """

    def __init__(self, directory: str | Path):
        self.path = Path(directory) / ROLLOUTS_FILE

    def begin(self, step: int) -> None:
        """Forget what a run that starts at this optimiser step has not done, or is going to do again."""
        kept = [group for group in read_rollouts(self.path.parent) if group["step"] < step]
        if kept:
            replace_file(self.path, b"".join(map(_line, kept)))
        else:
            self.path.unlink(missing_ok=True)

    def add(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Append groups, a line each, by one call: a kill can cut off the end of the file, nothing else."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab", buffering=0) as file:
            file.write(b"".join(map(_line, groups)))


def _line(group: Mapping[str, Any]) -> bytes:
    return json.dumps(group, allow_nan=False).encode() + b"\n"


def read_rollouts(directory: str | Path) -> list[dict[str, Any]]:
    """The recorded groups of a run, in order; nothing where there is no file. A line that was cut off is left out."""
    path = Path(directory) / ROLLOUTS_FILE
    content = path.read_bytes() if path.is_file() else b""
    return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]
