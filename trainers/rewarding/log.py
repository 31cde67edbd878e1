"""What a run keeps about its rewards beside the log: `rewards.json` in its directory, with weights and failures.

A resumed run counts on from that file, so steps that it does again are counted again.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainers.saving.files import replace_file

REWARDS_FILE = "rewards.json"
STRICT = "accuracy/strict"  # key in the log: share of completions that are strictly right


@dataclass
class Failures:
    """All failures of one kind of one reward.

    Attributes:
        reward, kind: whose, and how (`trainers.rewarding.guard.Fault`).
        calls: calls with such a failure, of all processes.
        completions: completions that have no value by it; fewer than failed where a repeated call went well.
        step, message, completion: the last one.
    """

    reward: str
    kind: str
    calls: int = 0
    completions: int = 0
    step: int = 0
    message: str = ""
    completion: str = ""


class RewardLog:
    """Counts failures, and keeps the file up to date.

    Args:
        directory: of the run.
        weights: of the rewards by name, in order.
    """

    def __init__(self, directory: str | Path, weights: dict[str, float]):
        self.path, self.weights = Path(directory) / REWARDS_FILE, weights
        self.failures: dict[tuple[str, str], Failures] = {}

    def begin(self, resumed: bool) -> None:
        """Start counting, or go on."""
        entries = read_rewards(self.path.parent).get("failures", []) if resumed else []
        self.failures = {(entry["reward"], entry["kind"]): Failures(**entry) for entry in entries}
        self.write()

    def add(self, found: Iterable[Failures]) -> None:
        """Count what one rollout brought, and write the file if that is anything."""
        found = list(found)
        for new in found:
            known = self.failures.setdefault((new.reward, new.kind), new)
            if known is not new:
                new.calls, new.completions = new.calls + known.calls, new.completions + known.completions
                self.failures[new.reward, new.kind] = new
        if found:
            self.write()

    def write(self) -> None:
        """Put weights and failures into `rewards.json`, whole or not at all."""
        content = {"weights": self.weights, "failures": [asdict(entry) for entry in self.failures.values()]}
        replace_file(self.path, (json.dumps(content, indent=2) + "\n").encode())


def read_rewards(directory: str | Path) -> dict[str, Any]:
    """The content of a run's `rewards.json`; nothing where there is none."""
    path = Path(directory) / REWARDS_FILE
    return json.loads(path.read_text()) if path.is_file() else {}
