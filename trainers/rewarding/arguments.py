"""Reward functions as users of TRL write them, and the arguments that they take.

TRL hands every function all that it has, by keyword, and so asks for `**kwargs`. Here a function without it gets what
it names. What it cannot do without has to be there: that is looked up before a model is loaded.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from typing import Any

from torch import nn
from trl.trainer.utils import is_async_callable

from trainers.settings.options import ConfigError

# what TRL hands on beside the columns of the data set, and columns that it does not hand on
HANDED = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
KEPT_BACK = ("prompt", "completion", "completion_ids")
BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

Reward = Callable[..., Any]


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


def reads(reward: Reward) -> Mapping[str, inspect.Parameter]:
    """The arguments of a reward, by name; of one that is written in C, which does not say, any."""
    try:
        return inspect.signature(reward).parameters
    except (TypeError, ValueError):
        return {"kwargs": inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)}


def named_arguments(reward: Reward) -> frozenset[str] | None:
    """The arguments that a reward function takes by keyword; None: any, or it does not say."""
    parameters = reads(reward).values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return frozenset(p.name for p in parameters if p.kind in BY_KEYWORD)


def check_arguments(reward: Any, columns: Collection[str], option: str = "reward_funcs", name: str = "") -> None:
    """Raise ConfigError for a reward function that needs what nobody hands it.

    Args:
        reward: a function; a reward model, or its name, is let pass.
        columns: of the data set.
        option: where the function was given.
        name: of the function; unset: its own.
    """
    if isinstance(reward, str | nn.Module):
        return
    name = name or getattr(reward, "__name__", type(reward).__name__)
    handed = {*columns} - {*KEPT_BACK} | {*HANDED}
    for p in reads(reward).values():
        if p.kind is p.POSITIONAL_ONLY:
            raise ConfigError(f"{option}: {name} takes {p.name!r} by position alone; TRL calls a reward by names")
        needed = p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        if needed and p.name not in handed:
            raise ConfigError(
                f"{option}: {name} needs {p.name!r}, which is neither a column of the data "
                f"({', '.join(columns)}) nor one of {', '.join(HANDED)}"
            )


def named(reward: Reward, name: str) -> Reward:
    """The same function under a name, which logs show; async where it is."""
    if getattr(reward, "__name__", None) == name:
        return reward

    def call(**arguments: Any) -> Any:
        return reward(**arguments)

    async def call_async(**arguments: Any) -> Any:
        return await reward(**arguments)

    wrapper = wraps(reward, updated=())(call_async if is_async_callable(reward) else call)
    wrapper.__name__ = name
    return wrapper
