"""The options of the small runs that a check-up makes, as a config file; nothing here takes long to import."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

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


@contextmanager
def written(name: str, block_length: int | None, trainer: str = "sft", **training: Any) -> Iterator[str]:
    """A config file of a small run, for as long as it is read; its path.

    Args:
        name: of the checkpoint.
        block_length: tokens of a block; None: it has none.
        trainer: a key of `trainers.settings.parser.TRAINERS`.
        training: further options of the section training.
    """
    canvas = canvas_of(block_length)
    document = {
        "trainer": trainer,
        "model": {"name_or_path": name},
        "generation": {"max_completion_length": canvas, "steps": canvas, "block_length": block_length},
        "training": TRAINING | training,
    }
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "doctor.yaml"
        path.write_text(yaml.safe_dump(document))
        yield str(path)
