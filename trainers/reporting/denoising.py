"""A completion while it is written: the canvas as a line of text."""

from rich.text import Text
from torch import Tensor

from trainers.models.policy import Policy

MASK = "░"


def canvas_line(policy: Policy, timestep: int, ids: Tensor, previous: Tensor) -> Text:
    """The canvas (1, L) as one line of text: what differs from ``previous`` (1, L) is bold, what is masked is dim."""
    line = Text(f"t={timestep:>3}  ")
    for token, old in zip(ids[0].tolist(), previous[0].tolist(), strict=True):
        if token == policy.mask_id:
            line.append(f"{MASK} ", style="dim")
        else:
            piece = policy.decode([token]).replace("\n", "⏎")
            line.append(f"{piece} ", style="bold" if token != old else "")
    return line
