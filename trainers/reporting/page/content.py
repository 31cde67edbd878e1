"""What report.html holds of a run, and what the page of one completion does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trainers.evaluating.playback import Playback
from trainers.reporting.markdown import plain
from trainers.reporting.page.budget import clipped
from trainers.reporting.page.panels import curves
from trainers.reporting.page.rollouts import browsed, playable
from trainers.reporting.rollout_log import read_rollouts

SETTINGS = 20_000  # characters of the settings, at most


def run_content(directory: Path, results: Mapping[str, Any], solved: Mapping[str, Any] | None) -> dict[str, Any]:
    """Of a whole run.

    Args:
        directory: of the run, with its rollouts.jsonl, if any.
        results: the content of its results.json.
        solved: as `trainers.reporting.page.solved.solved_problems` has it; None: not measured.
    """
    trains_by_rollouts = results["settings"].get("trainer", "grpo") == "grpo"
    groups = read_rollouts(directory) if trains_by_rollouts else []
    settings = yaml.safe_dump(plain(results["settings"]), sort_keys=False, allow_unicode=True)
    return {
        "kind": "run",
        "title": clipped(results["title"]),
        "command": clipped(results["command"]),
        "settings": clipped(settings, SETTINGS),
        "environment": {name: clipped(str(value)) for name, value in results["environment"].items()},
        "notes": [clipped(note) for note in results["notes"]],
        "held_out": results["held_out"],
        "seconds": results["seconds"],
        "curves": curves(results["log_history"]),
        "rollouts": browsed(groups, results["rewards"].get("weights", {})),
        "solved": solved,
    }


def completion_content(prompt: str, written: Playback, told: Mapping[str, str], greedy: bool) -> dict[str, Any]:
    """Of one completion.

    Args:
        prompt: the text behind which it starts.
        written: how.
        told: further facts, name -> text.
        greedy: every token was the likeliest one: there are no probabilities to show.
    """
    one = {"prompt": prompt, "text": written.text, "play": playable(vars(written)), "greedy": greedy}
    return {"kind": "completion", "title": "One completion, step by step", "told": told, "completion": one}
