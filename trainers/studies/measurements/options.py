"""The part of an experiment's options that sampling reads."""

from dataclasses import fields
from typing import Any

from trainers.settings.diffusion import DiffusionArguments
from trainers.settings.likelihood import LIKELIHOOD_OPTIONS


def sampling_arguments(args: DiffusionArguments, **changes: Any) -> DiffusionArguments:
    """The options that sampling and the bound read, with changes, checked; those of training are left behind."""
    kept = {
        declared.name: getattr(args, declared.name)
        for declared in fields(DiffusionArguments)
        if declared.metadata["section"] in ("generation", "loss", "masking")
    }
    if args.likelihood != "trajectory_nelbo":  # whatever the policy was trained on, measured is the bound
        other = {"likelihood", "trajectory_nelbo_loss", *LIKELIHOOD_OPTIONS}
        kept = {name: value for name, value in kept.items() if name not in other}
    changed = DiffusionArguments(**(kept | changes))
    changed.check_diffusion()
    return changed
