"""Reward functions as users of TRL write them, and the arguments that they take.

TRL hands every function all that it has, by keyword, and so asks for `**kwargs`. Here a function without it gets what
it names. What it cannot do without has to be there: that is looked up before a model is loaded.
"""

import inspect
from collections.abc import Callable, Collection
from typing import Any

from torch import nn

from trainers.settings.options import ConfigError

# what TRL hands on beside the columns of the data set, and columns that it does not hand on
HANDED = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
KEPT_BACK = ("prompt", "completion", "completion_ids")
BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def as_list(reward_funcs: Any) -> list[Any]:
    """One reward or several, as several.

    Raises:
        ConfigError: none, or something that TRL takes for no reward.
    """
    rewards = list(reward_funcs) if isinstance(reward_funcs, list | tuple) else [reward_funcs]
    for reward in rewards:
        if not isinstance(reward, str) and not callable(reward):  # a reward model is called too
            raise ConfigError(f"reward_funcs: {reward!r} is neither a function nor a reward model or the name of one")
    if not rewards:
        raise ConfigError("reward_funcs=[]: expected at least one reward function")
    return rewards


def named_arguments(reward: Callable[..., Any]) -> frozenset[str] | None:
    """The arguments that a reward function takes by keyword; None: any, or it does not say."""
    parameters = _parameters(reward)
    if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return frozenset(p.name for p in parameters if p.kind in BY_KEYWORD)


def check_arguments(reward: Any, columns: Collection[str]) -> None:
    """Raise ConfigError for a reward function that needs what nobody hands it.

    Args:
        reward: a function; a reward model, or its name, is let pass.
        columns: of the data set.
    """
    if isinstance(reward, str | nn.Module):
        return
    handed = {*columns} - {*KEPT_BACK} | {*HANDED}
    for p in _parameters(reward) or []:
        needed = p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        if needed and (p.name not in handed or p.kind is p.POSITIONAL_ONLY):
            name = getattr(reward, "__name__", type(reward).__name__)
            raise ConfigError(
                f"reward_funcs: {name} needs {p.name!r}, which is neither a column of train_dataset "
                f"({', '.join(columns)}) nor one of {', '.join(HANDED)}"
            )


def _parameters(reward: Callable[..., Any]) -> list[inspect.Parameter] | None:
    try:
        return list(inspect.signature(reward).parameters.values())
    except (TypeError, ValueError):  # of some built-in functions
        return None
