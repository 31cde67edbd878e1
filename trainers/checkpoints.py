"""Checkpoints: is one whole, and which is the last. A damaged file is named before any work is done."""

import json
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import get_last_checkpoint

from trainers.config import ConfigError

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
STATE = ("trainer_state.json", "optimizer.pt", "scheduler.pt")


def checkpoint_to_resume(wanted: str, output_dir: str) -> Path:
    """The checkpoint that `training.resume_from_checkpoint` means, found whole.

    Args:
        wanted: a checkpoint directory, or "true" for the last one in ``output_dir``.
        output_dir: where the run writes.

    Raises:
        ConfigError: there is none, or one of its files is missing or damaged.
    """
    if wanted.lower() == "true":
        last = get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None
        if last is None:
            raise ConfigError(
                f"training.resume_from_checkpoint=true: no checkpoint-* in training.output_dir={output_dir!r}"
            )
        wanted = last
    check_checkpoint(Path(wanted))
    return Path(wanted)


def check_checkpoint(directory: Path) -> None:
    """Raise a ConfigError that names the first file that is missing or cannot be read to its end."""
    if not directory.is_dir():
        raise ConfigError(
            f"training.resume_from_checkpoint={str(directory)!r}: expected 'true' or a checkpoint directory"
        )
    weights = [directory / name for name in WEIGHTS if (directory / name).is_file()]
    if not weights:
        raise ConfigError(f"checkpoint {directory}: no weights, expected one of {', '.join(WEIGHTS)}")
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
        except (OSError, ValueError, SafetensorError, zipfile.BadZipFile, EOFError) as error:
            reason = "missing" if isinstance(error, FileNotFoundError) else f"damaged ({error})"
            raise ConfigError(
                f"checkpoint {directory}: {path.name} is {reason}; resume from another checkpoint"
            ) from error


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
