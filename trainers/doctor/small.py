"""The options of the small runs that a check-up makes, as a config file; nothing here takes long to import."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from trainers.settings.parser import Request, SectionParser

CANVAS = 16  # tokens of a bidirectional model's canvas; a block-causal one gets two blocks or more
# the user's own options come after these
TRAINING = {
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-4,
    "logging_steps": 1,
    "save_strategy": "no",
    "eval_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


def canvas_of(block_length: int | None) -> int:
    """`CANVAS`, or the whole number of blocks, at least two, that is nearest below it."""
    return CANVAS if block_length is None else block_length * max(2, CANVAS // block_length)


def kept(asked: Request | None, trainer: str) -> dict[str, Any]:
    """Of what a config asks for, field by field, what a small run of ``trainer`` is to have too: all of it, or of a
    config for another trainer what it says of model and task."""
    if asked is None:
        return {}
    places = SectionParser(trainer).dotted
    shared = ("model.", "task.", "generation.block_length") if trainer != asked.trainer else ("",)
    return {name: value for name, value in asked.values.items() if places.get(name, "-").startswith(shared)}


@contextmanager
def written(
    name: str, block_length: int | None, trainer: str = "sft", asked: Request | None = None, **training: Any
) -> Iterator[str]:
    """A config file of a small run, for as long as it is read; its path.

    Args:
        name: of the checkpoint.
        block_length: tokens of a block; None: it has none.
        trainer: a key of `trainers.settings.parser.TRAINERS`.
        asked: what the user's own config asks for; sizes and training are those of a small run all the same.
        training: further options of the section training.
    """
    own = kept(asked, trainer)
    block_length = block_length or own.get("block_length")
    canvas = canvas_of(block_length)
    document = {"trainer": trainer} | own | {"model_name_or_path": name, "block_length": block_length}
    document |= {"max_completion_length": canvas, "max_timesteps": canvas} | TRAINING | training
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "doctor.yaml"
        path.write_text(yaml.safe_dump(document))
        yield str(path)
