"""The rewards of a run: names of the task's, and functions in files of the user's, checked before any work."""

from collections.abc import Mapping, Sequence

from trainers.rewarding.arguments import Reward, named
from trainers.settings.options import ConfigError
from trainers.settings.task import is_place
from trainers.settings.user_code import PLACE, function_at

OPTION = "task.reward"
USUAL = ("correctness", "format")  # of the task's, where nothing was chosen


def choose(entries: Sequence[str] | None, offered: Mapping[str, Reward], label: str) -> dict[str, Reward]:
    """Rewards by name, in the order of the entries.

    Args:
        entries: names of the task's rewards, or places of functions, such as my_rewards.py:fn; None: the usual ones.
        offered: the task's.
        label: the task's name, for errors.

    Raises:
        ConfigError: an unknown name, a place without a function, two rewards of one name.
    """
    if entries is None:
        entries = [name for name in USUAL if name in offered]
    chosen: dict[str, Reward] = {}
    for entry in entries:
        name = entry.rpartition(":")[2]
        if is_place(entry):
            reward = named(function_at(entry, OPTION), name)
        elif entry in offered:
            reward = offered[entry]
        else:
            raise ConfigError(
                f"{OPTION}={entry!r}: expected some of {', '.join(offered)} (task {label}), or a function of yours: "
                f"{PLACE}"
            )
        if name in chosen:
            raise ConfigError(f"{OPTION}={entry!r}: there is a reward {name!r} already; expected another name")
        chosen[name] = reward
    if not chosen:
        raise ConfigError(f"{OPTION}: name some of {', '.join(offered)} (task {label}), or a function: {PLACE}")
    return chosen
