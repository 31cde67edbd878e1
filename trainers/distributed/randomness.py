"""Generators that depend on where a run stands and on nothing else, so that a resumed run draws what it would have
drawn."""

import hashlib

import torch


def generator_at(*position: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one place in a run, such as (seed, "masks", micro-step).

    The position is hashed: neighbouring seeds and steps give unrelated streams, and no state has to be saved.
    """
    digest = hashlib.blake2b(repr(position).encode(), digest_size=8).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest) >> 1)
