"""Checkpoints: is one whole, and which is the last. A damaged file is named before any work is done.

A checkpoint of these trainers has a manifest (`trainers.faults.manifest`), which tells a flipped byte too. One
without, of an older version or another trainer, is looked at as far as its files tell.
"""

import json
import warnings
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

from trainers.distributed.processes import Processes
from trainers.faults.manifest import MANIFEST, damage
from trainers.faults.publishing import recover
from trainers.settings.options import ConfigError

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
STATE = ("trainer_state.json", "optimizer.pt", "scheduler.pt")
LAST, LAST_IF_ANY = "true", "auto"  # what `training.resume_from_checkpoint` may say in place of a directory


def checkpoint_to_resume(wanted: str, output_dir: str) -> Path | None:
    """The checkpoint that `training.resume_from_checkpoint` means, found whole by the main process for all.

    Args:
        wanted: a checkpoint directory; "true" for the last whole one in ``output_dir``; "auto" for the same or, where
            none was written yet, the beginning.
        output_dir: where the run writes.

    Returns:
        The directory; None: the beginning.

    Raises:
        ConfigError: there is none, or one of the files of the directory that was asked for is missing or damaged.
    """
    return Processes.current().from_first(lambda: _checkpoint_to_resume(wanted, output_dir))


def _checkpoint_to_resume(wanted: str, output_dir: str) -> Path | None:
    if wanted.lower() not in (LAST, LAST_IF_ANY):
        check_checkpoint(Path(wanted))
        return Path(wanted)
    recover(Path(output_dir))
    reasons = []
    for checkpoint in reversed(_numbered(output_dir)):
        try:
            check_checkpoint(checkpoint)
        except ConfigError as error:
            reasons.append(str(error))
            continue
        for reason in reasons:
            warnings.warn(f"{reason}: going on from {checkpoint.name}", stacklevel=2)
        return checkpoint
    if reasons:
        raise ConfigError(f"training.resume_from_checkpoint={wanted}: no whole checkpoint; {'; '.join(reasons)}")
    if wanted.lower() == LAST_IF_ANY:
        return None
    raise ConfigError(
        f"training.resume_from_checkpoint={wanted}: no checkpoint-* in training.output_dir={output_dir!r}"
    )


def _numbered(output_dir: str) -> list[Path]:
    """The checkpoints of a run, by step."""
    found = [Path(name) for name in sort_checkpoints(output_dir)]
    return [path for path in found if path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-").isdigit()]


def check_checkpoint(directory: Path) -> None:
    """Raise a ConfigError that names the first file that is missing or not as it was written.

    Reads the whole checkpoint once.
    """
    if not directory.is_dir():
        raise ConfigError(
            f"training.resume_from_checkpoint={str(directory)!r}: expected 'true', 'auto' or a checkpoint directory"
        )
    if (directory / MANIFEST).is_file():
        wrong = damage(directory) or _without_state(directory)
    else:
        wrong = _unreadable(directory)
    if wrong:
        raise ConfigError(f"checkpoint {directory}: {wrong}; resume from another checkpoint")


def _without_state(directory: Path) -> str | None:
    """What a model alone, of training.save_only_model, does not have; optimizers are in files of many names."""
    if not (directory / STATE[0]).is_file():
        return f"{STATE[0]} is missing"
    return None if list(directory.glob("rng_state*.pth")) else "rng_state.pth is missing"


def _unreadable(directory: Path) -> str | None:
    """The first file that is missing or cannot be read to its end."""
    weights = [directory / name for name in WEIGHTS if (directory / name).is_file()]
    if not weights:
        return f"no weights, expected one of {', '.join(WEIGHTS)}"
    random_states = list(directory.glob("rng_state*.pth")) or [directory / "rng_state.pth"]
    paths = [
        *weights,
        *directory.glob(f"*/{WEIGHTS[-1]}"),
        *directory.glob("*.pt"),
        *random_states,
        *(directory / name for name in STATE),
    ]
    for path in paths:
        try:
            _read(path)
            if path.name.endswith(".index.json"):
                paths += [directory / name for name in sorted(_shards(path))]
        except FileNotFoundError:
            return f"{path.name} is missing"
        except (OSError, ValueError, SafetensorError, zipfile.BadZipFile, EOFError) as error:
            return f"{path.name} is damaged ({error})"
    return None


def _shards(index: Path) -> set[str]:
    """The files over which the weights are spread."""
    return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())


def _read(path: Path) -> None:
    """Read what shows a truncation: a safetensors header against the file's size, a zip's checksums, JSON to its
    end."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt"):
            pass
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif (broken := zipfile.ZipFile(path).testzip()) is not None:
        raise ValueError(f"checksum of {broken}")
