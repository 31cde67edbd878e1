"""Reward functions as TRL calls them, with one clear error in place of a silent or late one."""

import functools
import math
from collections.abc import Callable, Sized
from typing import Any


class RewardError(RuntimeError):
    """A reward function failed. The message names it, what came out, and what is allowed."""


def checked(reward: Callable[..., list[float | None]]) -> Callable[..., list[float | None]]:
    """``reward`` with its outcome checked: one finite number, or None for "does not apply", per completion.

    TRL reads NaN as None and would train on without a word.
    """

    @functools.wraps(reward)
    def wrapped(*, completions: list[Any], **kwargs: Any) -> list[float | None]:
        name = getattr(reward, "__name__", repr(reward))
        try:
            values = reward(completions=completions, **kwargs)
        except Exception as error:
            raise RewardError(f"reward {name!r} raised {type(error).__name__}: {error}") from error
        if not isinstance(values, Sized):
            raise RewardError(f"reward {name!r} returned {values!r}; allowed: a list of {len(completions)} values")
        if len(values) != len(completions):
            raise RewardError(f"reward {name!r} returned {len(values)} values for {len(completions)} completions")
        for value, completion in zip(values, completions, strict=True):
            if value is not None and not _is_finite(value):
                raise RewardError(
                    f"reward {name!r} returned {value!r} for {completion!r}; allowed: a finite number, or None"
                )
        return values

    return wrapped


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except TypeError:
        return False
