"""The processes of one evaluation, as torchrun starts them. Alone, there is one."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from trainers.settings.options import ConfigError

Value = TypeVar("Value")
PATIENCE = timedelta(days=1)  # of a process that waits for a slower one; one that has died is noticed at once


@dataclass(frozen=True)
class Processes:
    """Attributes: ``rank`` of this one and ``count`` of all; ``group``, in which they exchange Python objects."""

    rank: int = 0
    count: int = 1
    group: dist.ProcessGroup | None = None

    @classmethod
    def current(cls) -> "Processes":
        """Those that torch.distributed knows (accelerate sets it up when a config is built), on a group of their own:
        gloo carries objects whatever the device."""
        if not dist.is_initialized():
            return cls()
        group = dist.new_group(backend="gloo", timeout=PATIENCE)
        assert isinstance(group, dist.ProcessGroup)  # all processes are in it
        return cls(dist.get_rank(), dist.get_world_size(), group)

    @property
    def first(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.rank == 0

    def gather(self, value: Value) -> list[Value]:
        """What every process has, in the order of the ranks, on all of them."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value, group=self.group)
        return found

    def from_first(self, make: Callable[[], Value]) -> Value:
        """What ``make`` gives on the first process, on all of them; what it refuses, all refuse.

        Raises:
            ConfigError: ``make`` did.
        """
        outcome = self.gather([_outcome(make)] if self.first else [])[0][0]
        if isinstance(outcome, ConfigError):
            raise outcome
        return outcome


def _outcome(make: Callable[[], Value]) -> Value | ConfigError:
    """What is made, or why it was refused."""
    try:
        return make()
    except ConfigError as error:
        return error
