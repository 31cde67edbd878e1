"""Held-out outcomes from before a run's first step, kept beside its checkpoints: a resumed run reads them."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from trainers.distributed.sharding import ShardedTrainer
from trainers.evaluating.evaluation import Evaluation
from trainers.evaluating.playback import Playback
from trainers.saving.files import replace_file

FILE = "held_out_before.json"
Outcomes = dict[str, Evaluation]


def outcomes_before(
    trainer: ShardedTrainer,
    directory: Path,
    identity: dict[str, Any],
    resumed: bool,
    measure: Callable[[], Outcomes] | None,
) -> Outcomes | None:
    """What the run's first start measured; a collective.

    Args:
        trainer: whose processes take part.
        directory: of the run.
        identity: what decides the outcomes; what was measured under another one is not read.
        resumed: whether an earlier start may have left them.
        measure: measures now; it is called where nothing was kept. None: nothing is to be measured.

    Returns:
        The outcomes; None where there are none.
    """
    first, path = trainer.accelerator.is_main_process, directory / FILE
    kept = _read(path, identity) if resumed and first else None
    if gather_object([kept is not None])[0]:
        return kept or {}  # only the main process has use for them
    if measure is None:
        return None
    found = measure()
    if first:
        content = {"identity": identity, "outcomes": {name: asdict(one) for name, one in found.items()}}
        replace_file(path, (json.dumps(content) + "\n").encode())
    return found


def _read(path: Path, identity: dict[str, Any]) -> Outcomes | None:
    """The kept outcomes; None where there are none, or of other problems or settings."""
    try:
        content = json.loads(path.read_text())
        if content["identity"] != json.loads(json.dumps(identity)):
            return None
        return {name: _evaluation(one) for name, one in content["outcomes"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _evaluation(kept: dict[str, Any]) -> Evaluation:
    """JSON knows no numbers as keys and no records."""
    values: dict[str, Any] = {**kept}
    values["playbacks"] = {int(place): Playback(**one) for place, one in kept["playbacks"].items()}
    return Evaluation(**values)
