"""Options of measurements: values of the command line, and the part of an experiment that sampling reads."""

import argparse
from dataclasses import fields
from typing import Any

from trainers.settings.likelihood import LIKELIHOOD_OPTIONS
from trainers.settings.trainer import DiffusionArguments

FULL = "full"  # in place of a number of steps: as many as it takes to reveal one token at a time


def steps_option(text: str) -> int | str:
    """A value of --steps: a number of steps, or `FULL`."""
    if text == FULL:
        return FULL
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of steps, at least 1, nor '{FULL}'")
    return int(text)


def at_least(least: int, text: str) -> int:
    """A whole number of a command line."""
    if not (text.isdecimal() and int(text) >= least):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


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
