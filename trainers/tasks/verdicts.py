"""What tasks say of a completion, and how its text is read from what TRL hands to a reward."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """Whether a completion is right, in the form asked for (strict) or in any that the task reads (lenient)."""

    strict: bool
    lenient: bool


def text_of(completion: str | list[dict[str, str]]) -> str:
    """The text of a completion, plain or conversational."""
    return completion if isinstance(completion, str) else completion[-1]["content"]
