"""A time limit on a call of somebody else's code, in this process.

The alarm of the process (SIGALRM) interrupts Python code, sleeping, waiting for locks and children, and regular
expressions that backtrack. It does not interrupt: C code that never looks at signals while it computes, code on
another thread than the main one (there the call runs unlimited), and code that replaces or switches off the alarm for
itself, as math-verify does (which is why such code must limit itself). Windows has no such alarm.
"""

import signal
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")

AGAIN = 1.0  # seconds after which the alarm rings again, for code that swallowed it


class TimeUp(BaseException):
    """The limit has passed. No `Exception`: the code that is interrupted would catch it as one of its own."""


def can_interrupt() -> bool:
    """Whether a call from this thread can be interrupted."""
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()


def within(seconds: float, call: Callable[[], Result]) -> Result:
    """What ``call`` returns, unless it takes longer.

    The alarm's handler and timer are afterwards those of before; an outer limit goes on, with what is left of it.

    Args:
        seconds: the limit, above 0.
        call: runs in this thread; without a limit where `can_interrupt` is false.

    Raises:
        TimeUp: the limit passed, also if the interrupted code caught that and returned or raised something else.
    """
    if not can_interrupt():
        return call()
    armed, rang = True, False

    def ring(signum: int, frame: Any) -> None:
        nonlocal rang
        if armed:
            rang = True
            raise TimeUp

    started, outer = time.monotonic(), (0.0, 0.0)
    handler = signal.signal(signal.SIGALRM, ring)
    try:
        outer = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
        try:
            result = call()
        finally:
            armed = False
    except Exception as error:
        if rang:
            raise TimeUp from error
        raise
    finally:
        armed = False  # again: the alarm may have rung right before the same line above
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
        _go_on(*outer, time.monotonic() - started)
    if rang:
        raise TimeUp
    return result


def _go_on(delay: float, interval: float, passed: float) -> None:
    """Set an outer timer again that had so many seconds left; it rings at once where they have passed."""
    if delay > passed:
        signal.setitimer(signal.ITIMER_REAL, delay - passed, interval)
    elif delay > 0:
        signal.setitimer(signal.ITIMER_REAL, interval, interval)
        signal.raise_signal(signal.SIGALRM)
