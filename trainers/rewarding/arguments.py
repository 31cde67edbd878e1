"""What TRL gives to a reward function, by name, and how a function gets of it what it reads."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

from trl.trainer.utils import is_async_callable

from trainers.settings.options import ConfigError

# what every reward is given beside the columns of the data
GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")

Reward = Callable[..., Any]


def reads(reward: Reward) -> Mapping[str, inspect.Parameter]:
    """The arguments of a reward, by name; of one that is written in C, which does not say, any."""
    try:
        return inspect.signature(reward).parameters
    except (TypeError, ValueError):
        return {"kwargs": inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)}


def check_reads(rewards: Mapping[str, Reward], columns: Sequence[str]) -> None:
    """Raise ConfigError for a reward that asks for what it will not get.

    Args:
        rewards: by name.
        columns: of the data; a reward gets those and `GIVEN`, each by its name.
    """
    available = {*GIVEN, *columns} - {"prompt", "completion"}  # which TRL gives as prompts and leaves out
    for name, reward in rewards.items():
        parameters = reads(reward).values()
        if any(p.kind is p.POSITIONAL_ONLY for p in parameters):
            raise ConfigError(f"task.reward: {name} takes arguments by position alone; TRL calls it by their names")
        needed = [
            p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        ]
        missing = [one for one in needed if one not in available]
        if missing:
            found = ", ".join(column for column in columns if column in available)
            raise ConfigError(
                f"task.reward: {name} reads {missing[0]!r}, which it will not get; it gets {', '.join(GIVEN)} and the "
                f"columns of the data: {found or 'none'}"
            )


def named(reward: Reward, name: str) -> Reward:
    """The same function under a name, which logs show."""
    if getattr(reward, "__name__", None) == name:
        return reward
    return _wrapped(reward, lambda arguments: arguments, name)


def with_its_own_arguments(reward: Reward) -> Reward:
    """A reward that names all that it reads, without ``**kwargs``, gets that alone of what TRL gives to every one."""
    own = reads(reward)
    if any(p.kind is p.VAR_KEYWORD for p in own.values()):
        return reward
    return _wrapped(reward, lambda arguments: {key: value for key, value in arguments.items() if key in own})


def _wrapped(reward: Reward, pick: Callable[[dict[str, Any]], dict[str, Any]], name: str | None = None) -> Reward:
    """A function, async where the reward is, that calls it with some of its arguments."""

    def call(**arguments: Any) -> Any:
        return reward(**pick(arguments))

    async def call_async(**arguments: Any) -> Any:
        return await reward(**pick(arguments))

    wrapper = wraps(reward, updated=())(call_async if is_async_callable(reward) else call)
    if name is not None:
        wrapper.__name__ = name
    return wrapper
