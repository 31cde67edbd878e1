"""Room on the disk: what a checkpoint needs, and what to do when it is not there."""

import errno
import math
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import Tensor
from transformers.trainer_utils import SaveStrategy, sort_checkpoints

WAIT = 600.0  # seconds for which a full disk holds a run, below the 1800 s after which ranks give up on each other
POLL = 5.0  # seconds between two looks
SPARE = 1.05  # the tokenizer, the rollout buffer and blocks that are not full, over the tensors
BLOCK = 2**20  # with less than this free, the estimate of what is missing need not be asked
FULL = {errno.ENOSPC, errno.EDQUOT}


def free_bytes(directory: Path) -> int:
    """What can still be written to ``directory``, or to the nearest one above it that exists."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return shutil.disk_usage(directory).free


def bytes_of(directory: Path) -> int:
    """The size of the files in ``directory``."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def needed_instead(error: BaseException, partial: Path, needed: int) -> int | None:
    """What a save to ``partial`` that failed takes at least, if it failed on a full disk, and None if not.

    The libraries do not hand on the number: torch.save says that it is at an unexpected position, safetensors prints
    it. So the disk is asked, with the part that was written still on it.
    """
    written, free = bytes_of(partial), free_bytes(partial)
    full = free < max(needed - written, BLOCK)
    if full or _number(error) in FULL:  # under a quota much may be free
        return max(needed, written + BLOCK + (free if full else 0))
    return None


def _number(error: BaseException) -> int | None:
    """The first one of the operating system in a chain of errors."""
    linked: BaseException | None = error
    while linked is not None:
        if isinstance(linked, OSError) and linked.errno is not None:
            return linked.errno
        linked = linked.__cause__ or linked.__context__
    return None


def checkpoint_bytes(trainer: Any) -> int:
    """What a checkpoint takes, by its tensors; before the first update the optimizer's are told by its name."""
    trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    if trainer.optimizer is not None and trainer.optimizer.state:
        moments = sum(_bytes(value for value in state.values()) for state in trainer.optimizer.state.values())
    else:
        name = trainer.args.optim.value
        each = 1 if "8bit" in name else None
        moments = ("adam" in name) * 2 * sum(w.numel() * (each or w.element_size()) for w in trained)
    return int(SPARE * (model_bytes(trainer) + moments))


def model_bytes(trainer: Any) -> int:
    """What the weights take, or the adapter and the frozen copy of it that a KL penalty needs."""
    adapted = isinstance(trainer.accelerator.unwrap_model(trainer.model), PeftModel)
    weights = trainer.model.parameters()
    return 2 * _bytes(w for w in weights if w.requires_grad) if adapted else _bytes(weights)


def _bytes(values: Iterator[Any]) -> int:
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))


def lack_of_room(trainer: Any) -> str | None:
    """What is wrong, if a run will not find room for its model and for the checkpoints that it has at one time: the
    last and the one being written at least, one more than `save_total_limit`, or as many as it writes."""
    args, run = trainer.args, Path(trainer.args.output_dir)
    each, free, at_a_time = checkpoint_bytes(trainer), free_bytes(run), 0
    if args.save_strategy != SaveStrategy.NO:
        at_a_time = max(2, (args.save_total_limit or 1) + 1)
        if args.save_strategy == SaveStrategy.STEPS and args.save_steps >= 1 and args.max_steps > 0:
            at_a_time = min(at_a_time, math.ceil(args.max_steps / args.save_steps))
        at_a_time = max(1, at_a_time - len(sort_checkpoints(str(run))))
    needed = at_a_time * each + model_bytes(trainer)
    if free >= needed:
        return None
    return (
        f"training.output_dir={args.output_dir!r}: {_readable(free)} free, {_readable(needed)} needed for the model "
        f"and {at_a_time} checkpoints of about {_readable(each)}; free some, or set a lower "
        "training.save_total_limit or another directory"
    )


def make_room(run: Path, needed: int, limit: int | None = None, best: str | None = None) -> str | None:
    """Wait until ``needed`` bytes are free in ``run``; None, or what is wrong after `WAIT`.

    With a ``limit`` (save_total_limit) reached, the oldest checkpoint would go once the new one is whole: if it takes
    that, it goes now, while there is a newer one. The ``best`` one stays.
    """
    give_up, warned = time.monotonic() + WAIT, False
    while free_bytes(run) < needed:
        kept = sort_checkpoints(str(run), use_mtime=True)
        older = [path for path in kept[:-1] if path != best]
        if limit and older and len(kept) >= limit:
            shutil.rmtree(older[0])
            continue
        full = disk_full(run, needed)
        if time.monotonic() >= give_up:
            return f"{full}; gave up after {WAIT:.0f} s"
        if not warned:
            warnings.warn(f"{full}; waiting for room, {WAIT:.0f} s at most", stacklevel=2)
            warned = True
        time.sleep(POLL)
    return None


def disk_full(run: Path, needed: int) -> str:
    """The line that says it."""
    kept = sort_checkpoints(str(run))
    last = f"the last whole checkpoint is {Path(kept[-1]).name}" if kept else "there is no checkpoint yet"
    return f"disk full, {run}: {_readable(needed)} needed, {_readable(free_bytes(run))} free; {last}"


def _readable(size: int) -> str:
    """In the largest decimal unit that leaves digits before the point."""
    exponent = min(4, max(0, (len(str(size)) - 1) // 3))
    return f"{size / 1000**exponent:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[exponent]}"
