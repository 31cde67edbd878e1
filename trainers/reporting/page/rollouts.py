"""The recorded rollouts of a GRPO run, as report.html shows them."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainers.reporting.page.budget import PLAYED, ROLLOUTS, SHOWN_TEXT, Budget, clipped


def browsed(groups: Sequence[Mapping[str, Any]], weights: Mapping[str, float]) -> list[dict[str, Any]]:
    """Groups of completions, within two budgets of bytes: one of texts and numbers, one of how they were written.

    Where there is no room for all groups, those that are shown are spread over the run. Every group's first completion
    is taken before any group's second, so that all groups can be played a little.

    Args:
        groups: as `trainers.reporting.rollout_log.read_rollouts` has them.
        weights: of the rewards by name.

    Returns:
        For each group step, group, prompt, size and completions, each with text, rewards, total, advantage, length,
        finish and, where there was room, play.
    """
    texts, played = Budget(ROLLOUTS), Budget(PLAYED)
    told = [_group(group, weights) for group in groups]
    kept = {place for place in spread(len(told)) if texts.takes(told[place])}
    shown = [group for place, group in enumerate(told) if place in kept]
    places = {(group["step"], group["group"]): group["completions"] for group in shown}
    most = max((len(group["completions"]) for group in groups), default=0)
    for place in range(most):
        for group in groups:
            rows = places.get((group["step"], group["group"]), [])
            if place < len(rows) and played.takes(play := playable(group["completions"][place])):
                rows[place]["play"] = play
    return shown


def spread(count: int) -> list[int]:
    """The numbers below ``count`` in an order of which every beginning is spread over them: both ends, then the middle
    of what is between two, and so on."""
    order, gaps = list(dict.fromkeys((0, count - 1)))[:count], [(0, count - 1)]
    while gaps:
        middles = [(low, (low + high) // 2, high) for low, high in gaps if high - low > 1]
        order += [middle for _, middle, _ in middles]
        gaps = [gap for low, middle, high in middles for gap in ((low, middle), (middle, high))]
    return order


def _group(group: Mapping[str, Any], weights: Mapping[str, float]) -> dict[str, Any]:
    rewards = group["rewards"]
    return {
        **{key: group[key] for key in ("step", "group", "size")},
        "prompt": clipped(group["prompt"]),
        "completions": [
            {
                "text": clipped(one["text"], SHOWN_TEXT),
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
