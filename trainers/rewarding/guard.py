"""Reward functions behind a guard: whatever one does, its call ends with one value a completion, and the run goes on.

Nouns: a *fault* is one way in which a reward failed: it raised, passed its time limit, or returned what is no finite
number (or None, which is TRL's "does not apply" and no fault), no list, or a list of the wrong length.

A call that fails as a whole is repeated completion by completion, so that one poisonous completion costs only itself.
So a reward that compares completions of a batch sees single ones then, and one that asks a paid service asks twice.
The limit is per call, for the whole batch; the repetition has the same limit once more, shared out among the
completions. See `trainers/rewarding/time_limit.py` for what cannot be interrupted; an async reward is interrupted
where it awaits. A reward model (nn.Module) is not guarded, but a value of it that is not finite counts as failed.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Set, Sized
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from trl.trainer.utils import get_callable_name, is_async_callable

from trainers.rewarding.arguments import named_arguments
from trainers.rewarding.time_limit import TimeUp, within

REWARD_TIME_LIMIT = 60.0  # seconds a call
UNKNOWN = 0.0  # stands for a failed value, because TRL warns at length about rows that have none at all
SHOWN = 200  # characters of a message or a completion that are shown
ALLOWED = "allowed: a finite number, or None"

# A reward may call exit(), and its libraries may cancel it. An interrupt from the keyboard is the user's.
CAUGHT = (Exception, SystemExit, asyncio.CancelledError)


@dataclass(frozen=True)
class Fault:
    """How a reward failed: a kind to count by, and what to tell."""

    kind: str
    message: str


Values = list[float | None]  # one a completion; None: the reward does not apply
Judged = float | None | Fault


class BadReturn(Exception):
    """What a reward returned holds no values, one a completion."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.fault = Fault(kind, message)


def shown(thing: Any, form: Callable[[Any], str] = repr) -> str:
    """A thing in one short line, even one whose own repr fails."""
    try:
        text = " ".join(form(thing).split())
    except Exception:
        text = f"<{type(thing).__name__}>"
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def read_values(returned: Any, size: int) -> list[Judged]:
    """The values of a reward as floats, one a completion, with a fault in place of each that is none.

    Raises:
        BadReturn: no list, or one of another length.
    """
    if not isinstance(returned, Sized) or isinstance(returned, str | bytes | Mapping | Set):
        raise BadReturn("wrong type", f"returned {shown(returned)}; allowed: a list of {size} values")
    values = list(cast(Iterable[Any], returned))  # list() also takes what has only a length and numbered items
    if len(values) != size:
        raise BadReturn("wrong length", f"returned {len(values)} values for {size} completions")
    return [_read(value) for value in values]


def _read(value: Any) -> Judged:
    if value is None:
        return None
    try:
        if isinstance(value, str | bytes):  # float() reads numbers out of texts
            raise TypeError
        number = float(value)
    except OverflowError:
        return Fault("not finite", f"returned {shown(value)}; {ALLOWED}")
    except Exception:
        return Fault("wrong type", f"returned {shown(value)}; {ALLOWED}")
    # TRL keeps rewards in float32
    if abs(number) <= torch.finfo(torch.float32).max:
        return number
    return Fault("not finite", f"returned {shown(value)}; {ALLOWED}")


class GuardedReward(ABC):
    """A reward function that never fails: what calls of plain functions and of coroutine functions have in common.

    Attributes:
        faults: of the last call, by completion. Their values are `UNKNOWN` in what was returned.
        repeated: why the last call was repeated completion by completion; None: it was not.
    """

    def __init__(self, reward: Callable[..., Any], seconds: float):
        self.reward, self.seconds = reward, seconds
        self._named = named_arguments(reward)
        self.__name__ = get_callable_name(reward)  # of the metrics
        self.faults: dict[int, Fault] = {}
        self.repeated: Fault | None = None

    @abstractmethod
    def __call__(self, *, completions: list[Any], **kwargs: Any) -> Values | Awaitable[Values]:
        """One value a completion, None where the reward says so; `faults` and `repeated` then tell of this call."""

    def _call(self, **handed: Any) -> Any:
        """The reward, on what it takes of what there is."""
        if self._named is not None:
            handed = {name: value for name, value in handed.items() if name in self._named}
        return self.reward(**handed)

    def _settle(self, outcome: list[Judged] | Fault) -> Values:
        judged = _as_list(outcome)
        self.faults = {i: value for i, value in enumerate(judged) if isinstance(value, Fault)}
        return [UNKNOWN if isinstance(value, Fault) else value for value in judged]

    def _too_late(self, seconds: float) -> Fault:
        return Fault("timed out", f"no answer within {seconds:.3g} s (task.reward_time_limit={self.seconds:g})")


class GuardedSyncReward(GuardedReward):
    """A plain function; its completions are repeated one after the other."""

    def __call__(self, *, completions: list[Any], **kwargs: Any) -> Values:
        """One value a completion, once the call and its repetition are done or out of time."""
        outcome = self._attempt(completions, kwargs, self.seconds)
        self.repeated = outcome if isinstance(outcome, Fault) and len(completions) > 1 else None
        if self.repeated is not None:
            outcome = self._one_by_one(completions, kwargs)
        return self._settle(outcome)

    def _attempt(self, completions: list[Any], kwargs: dict[str, Any], seconds: float) -> list[Judged] | Fault:
        """One call; a fault if all of it failed."""
        try:
            return within(
                seconds, lambda: read_values(self._call(completions=completions, **kwargs), len(completions))
            )
        except TimeUp:
            return self._too_late(seconds)
        except CAUGHT as error:
            return _fault_of(error)

    def _one_by_one(self, completions: list[Any], kwargs: dict[str, Any]) -> list[Judged]:
        """A call for each completion; what one leaves of its share of the time, the others have beside their own."""
        end, size = time.monotonic() + self.seconds, len(completions)
        outcomes: list[Judged] = []
        for i in range(size):
            share = max(self.seconds / size, (end - time.monotonic()) / (size - i))
            outcomes += _as_list(self._attempt([completions[i]], _alone(kwargs, i, size), share))
        return outcomes


class GuardedAsyncReward(GuardedReward):
    """A coroutine function; its completions are repeated side by side."""

    async def __call__(self, *, completions: list[Any], **kwargs: Any) -> Values:
        """One value a completion; a coroutine that passes the time limit is cancelled and not waited for."""
        size = len(completions)
        outcome = await self._attempt_async(completions, kwargs)
        self.repeated = outcome if isinstance(outcome, Fault) and size > 1 else None
        if self.repeated is not None:
            calls = (self._attempt_async([completions[i]], _alone(kwargs, i, size)) for i in range(size))
            outcome = [value for single in await asyncio.gather(*calls) for value in _as_list(single)]
        return self._settle(outcome)

    async def _attempt_async(self, completions: list[Any], kwargs: dict[str, Any]) -> list[Judged] | Fault:
        async def call() -> list[Judged] | Fault:
            try:
                return read_values(await self._call(completions=completions, **kwargs), len(completions))
            except CAUGHT as error:  # here: what leaves a task as SystemExit ends TRL's event loop
                return _fault_of(error)

        task = asyncio.ensure_future(call())
        # not wait_for, which waits for as long as the cancelled one takes to end
        done, _ = await asyncio.wait({task}, timeout=self.seconds)
        if done:
            return task.result()
        task.cancel()
        return self._too_late(self.seconds)


def guard(reward: Any, seconds: float) -> Any:
    """A reward function behind its guard; a reward model (a module, or its name for TRL to load) as it is."""
    if isinstance(reward, str | nn.Module):
        return reward
    return (GuardedAsyncReward if is_async_callable(reward) else GuardedSyncReward)(reward, seconds)


def _fault_of(error: BaseException) -> Fault:
    if isinstance(error, BadReturn):
        return error.fault
    kind = f"raised {type(error).__name__}"
    return Fault(kind, f"{kind}: {shown(error, str)}")


def _as_list(outcome: list[Judged] | Fault) -> list[Judged]:
    """A fault of a call for one completion is that completion's."""
    return [outcome] if isinstance(outcome, Fault) else outcome


def _alone(kwargs: dict[str, Any], i: int, size: int) -> dict[str, Any]:
    """Arguments of a call for one completion: its entry of every list that has one for each.

    TRL's log_extra wants a batch's column at once, so a repetition logs nothing.
    """
    alone = {
        key: [value[i]] if isinstance(value, list) and len(value) == size else value for key, value in kwargs.items()
    }
    return alone | {key: ignore for key in ("log_extra", "log_metric") if key in kwargs}


def ignore(*args: Any, **kwargs: Any) -> None:
    """In place of TRL's loggers, where a call is no batch of a run."""
