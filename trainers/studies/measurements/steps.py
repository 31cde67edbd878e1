"""The numbers of denoising steps that a measurement compares, as a command line says them."""

import argparse

FULL = "full"  # in place of a number of steps: as many as it takes to reveal one token at a time


def steps_option(text: str) -> int | str:
    """A value of --steps: a number of steps, or `FULL`."""
    if text == FULL:
        return FULL
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of steps, at least 1, nor '{FULL}'")
    return int(text)
