"""The recorded rollouts of a GRPO run, as report.html shows them."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainers.reporting.page.budget import PLAYED, ROLLOUTS, Budget, clipped


def browsed(groups: Sequence[Mapping[str, Any]], weights: Mapping[str, float]) -> list[dict[str, Any]]:
    """Groups of completions, within two budgets of bytes: one of texts and numbers, one of how they were written.

    Every group's first completion is taken before any group's second, so that all groups can be played a little.

    Args:
        groups: as `trainers.reporting.rollout_log.read_rollouts` has them.
        weights: of the rewards by name.

    Returns:
        For each group step, group, prompt, size and completions, each with text, rewards, total, advantage, length,
        finish and, where there was room, play.
    """
    texts, played = Budget(ROLLOUTS), Budget(PLAYED)
    shown = [group for group in (_group(group, weights) for group in groups) if texts.takes(group)]
    places = {(group["step"], group["group"]): group["completions"] for group in shown}
    most = max((len(group["completions"]) for group in groups), default=0)
    for place in range(most):
        for group in groups:
            rows = places.get((group["step"], group["group"]), [])
            if place < len(rows) and played.takes(play := playable(group["completions"][place])):
                rows[place]["play"] = play
    return shown


def _group(group: Mapping[str, Any], weights: Mapping[str, float]) -> dict[str, Any]:
    rewards = group["rewards"]
    return {
        **{key: group[key] for key in ("step", "group", "size")},
        "prompt": clipped(group["prompt"]),
        "completions": [
            {
                "text": clipped(one["text"]),
                "rewards": {name: values[row] for name, values in rewards.items()},
                "total": sum(weights.get(name, 1.0) * (values[row] or 0.0) for name, values in rewards.items()),
                "advantage": group["advantages"][row],
                "length": one["length"],
                "finish": one["finish"],
            }
            for row, one in enumerate(group["completions"])
        ],
    }


def playable(written: Mapping[str, Any]) -> dict[str, Any]:
    """What the player needs of a `trainers.evaluating.playback.Playback`."""
    return {key: written[key] for key in ("tokens", "steps", "logps", "length", "finish")}
