"""Names out of a config: one check and one message for all lists and registries of them."""

from collections.abc import Collection, Mapping
from typing import TypeVar

Entry = TypeVar("Entry")


def check_known(key: str, value: str, known: Collection[str]) -> None:
    """Raise a ValueError that lists the known names, unless ``value`` is one.

    Args:
        key: the option that holds the value, for the message.
        value: the name to check.
        known: all names there are.
    """
    if value not in known:
        raise ValueError(f"{key}={value!r} is unknown; known: {', '.join(known)}")


def look_up(key: str, value: str, registry: Mapping[str, Entry]) -> Entry:
    """What a name stands for in a registry; raises as `check_known`."""
    check_known(key, value, registry)
    return registry[value]
