"""What decides an evaluation's outcomes, written down: data, weights, settings."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import torch
from datasets import Dataset
from torch import nn

from trainers.evaluating.sweeps import SCHEDULE, SPEED
from trainers.models.formats import BARE, PromptFormat
from trainers.settings.config import ExperimentConfig
from trainers.settings.diffusion import DiffusionArguments
from trainers.settings.options import dotted

COLUMNS = ("prompt", "answer", "cluster")  # of a problem, that an evaluation reads
ALSO_READ = (*SCHEDULE, "loss.prediction_type", "loss.flow_noise_scale")


def data_hash(problems: Dataset) -> str:
    """sha256 over prompt, answer and cluster of every row, in order: a JSON array a row, a line each."""
    digest = hashlib.sha256()
    for row in zip(*(problems[name] for name in COLUMNS), strict=True):
        digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def weights_hash(model: nn.Module) -> str:
    """sha256 over the weights as they are evaluated: name, dtype, shape and bytes of every tensor, sorted by name.

    Of the loaded model, not of its files: the same weights in other shards or another directory have the same hash, an
    adapter's base model counts, and so does the dtype they are run in.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def settings(config: ExperimentConfig, form: PromptFormat = BARE) -> dict[str, Any]:
    """Every setting that can show in an outcome, with its value, defaults included; not where files lie, since hashes
    say what is in them.

    Args:
        config: the experiment.
        form: the format that its policy is asked in; bare text, as ever, is not written down.
    """
    args = config.training
    read = {
        dotted(option): getattr(args, option.name)
        for option in fields(DiffusionArguments)
        if option.metadata["section"] in ("generation", "masking") or dotted(option) in ALSO_READ
    }
    model = {f"model.{name}": value for name, value in asdict(config.model).items() if name != "model_name_or_path"}
    kept = {name: value for name, value in (read | model).items() if name not in SPEED}
    told = {"task.options": config.task.task_options} if config.task.task_options else {}
    told |= {"task.rewards": config.task.reward_identities} if config.task.reward_identities else {}
    return kept | told | form.describe() | {"task.name": config.task.identity, "training.seed": args.seed}


def first_difference(here: Mapping[str, Any], there: Mapping[str, Any], path: Sequence[str] = ()) -> str | None:
    """The first entry in which two nested mappings differ, as text; None if they are equal."""
    for key in dict.fromkeys([*here, *there]):
        mine, other = here.get(key), there.get(key)
        if isinstance(mine, Mapping) and isinstance(other, Mapping):
            inner = first_difference(mine, other, [*path, key])
            if inner is not None:
                return inner
        elif mine != other:
            return f"{' '.join([*path, key])} is {mine!r} here and {other!r} there"
    return None
