"""How much memory a piece of work needs: the most bytes that torch held at once, beyond those it held before.

On a GPU the allocator keeps that number itself. On a CPU nobody does, so the profiler's record of every allocation and
release is replayed: a running sum in order of time, and its largest value. It is exact for what torch's allocator
hands out; what libraries take for themselves (MKL's buffers, Python's objects) is not in it.
"""

import gc
import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

MEMORY_EVENT = "[memory]"  # kineto's name for one allocation (positive bytes) or release (negative)
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read at the first profile; it announces start and stop on stderr


def peak_memory(work: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """Run ``work`` once and say how many bytes it needed at most, beyond what was allocated when it started.

    Only what ``work`` allocates is followed: let it release nothing that was there before (torch does not tell a CPU's
    recorder how large that was). Recording slows a CPU down: time another run.

    Args:
        work: called without arguments.
        device: where it allocates; allocations elsewhere do not count.

    Returns:
        Bytes, at least 0.
    """
    if torch.device(device).type == "cuda":
        return _peak_on_gpu(work, torch.device(device))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    profiler: Any = record.profiler  # the stubs of its events do not know the bytes of an allocation
    events = [event for event in profiler.kineto_results.events() if event.name() == MEMORY_EVENT]
    return highest_sum((event.start_ns(), event.nbytes()) for event in events if event.device_type().name == "CPU")


def highest_sum(changes: Iterable[tuple[int, int]]) -> int:
    """The largest running sum, 0 at the start, of (time, change) pairs put into the order of time."""
    total = highest = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):  # a stable sort: equal times stay as recorded
        total += change
        highest = max(highest, total)
    return highest


def _peak_on_gpu(work: Callable[[], Any], device: torch.device) -> int:
    gc.collect()  # what a cycle still holds would be released half-way
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
