"""What tasks say of a completion, and how its text is read from what TRL hands to a reward."""

from collections.abc import Collection
from dataclasses import dataclass

PARSERS = ("strict", "lenient")  # the two shares of right completions that are measured
REWARD = "reward "  # begins the name of a measure that is the mean of a reward


@dataclass(frozen=True)
class Verdict:
    """Whether a completion is right, in the form asked for (strict) or in any that the task reads (lenient)."""

    strict: bool
    lenient: bool


def text_of(completion: str | list[dict[str, str]]) -> str:
    """The text of a completion, plain or conversational."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def is_reward(measure: str) -> bool:
    """Whether a measure ("sampled strict", "greedy reward length") is the mean of a reward, and no share."""
    return REWARD in measure


def only_rewards(measures: Collection[str]) -> bool:
    """Whether something was measured, and all of it is means of rewards."""
    return bool(measures) and all(map(is_reward, measures))
