"""States drawn once, as a record: `Draws` says what each state hides and what of it is scored, with which weight.

A *state* is the prompt and the canvas with some tokens hidden; an estimate looks at M of them a sequence.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Noise = Callable[..., Tensor]  # shape without the batch axis -> uniforms with it, (B, *shape)


@dataclass(frozen=True)
class Draws:
    """All randomness of one estimate, batch first, so that it can travel in a batch dictionary and be split by rows.

    Attributes (with an iteration axis I behind B where `stack` made one):
        hidden: completion tokens masked in each of the M states, (B, M, L).
        scored: those of them whose log-prob counts, (B, M, L): all (fresh masks), or those of one step (replay).
        prompt_hidden: masked prompt tokens, (B, M, P).
        weight: weight of each draw in the sequence value, (B, M); sums over draws, 1/M included.
        variance_factor: 1 - K / S where K of S steps were drawn without replacement, else 1 (merged steps), (B,).
        timestep: timestep of each state on the closed grid, or its replayed step, (B, M); where there is either.
        u: the uniform number of each token that decided ``hidden``, (B, M, L); only where states are drawn by
            timestep. It stays where it was drawn: `to_dict` leaves it out.
        shown: the tokens at visible positions where these are not the scored text's own, (B, M, L), and
        rolled_out: the sequences that were offered such states, (B,); see `core.scheduled_sampling`.
        candidates: hidden tokens that the selection rule chose among, (B, M, L); see
            `core.likelihoods.selection_replay`.
    """

    hidden: Bool[Tensor, "B *I M L"]
    scored: Bool[Tensor, "B *I M L"]
    prompt_hidden: Bool[Tensor, "B *I M P"]
    weight: Float[Tensor, "B *I M"]
    variance_factor: Float[Tensor, "B *I"]
    timestep: Int[Tensor, "B *I M"] | None = None
    u: Float[Tensor, "B *I M L"] | None = None
    shown: Int[Tensor, "B *I M L"] | None = None
    rolled_out: Bool[Tensor, "B *I"] | None = None
    candidates: Bool[Tensor, "B *I M L"] | None = None

    def to_dict(self, prefix: str) -> dict[str, Tensor]:
        """Fields under prefixed keys, for a batch dictionary."""
        return {prefix + name: value for name, value in self._tensors().items() if name != "u"}

    @classmethod
    def from_dict(cls, batch: dict[str, Any], prefix: str) -> "Draws":
        """The inverse of `to_dict`."""
        names = (field.name for field in fields(cls))
        return cls(**{name: batch[prefix + name] for name in names if prefix + name in batch})

    @classmethod
    def stack(cls, draws: "list[Draws]") -> "Draws":
        """I draws of the same batch as one record with an iteration axis behind the batch axis: (B, I, ...)."""
        return cls(**{name: torch.stack([getattr(d, name) for d in draws], dim=1) for name in draws[0]._tensors()})

    @classmethod
    def cat(cls, parts: "list[Draws]") -> "Draws":
        """The draws of consecutive rows as one record."""
        return cls(**{name: torch.cat([getattr(d, name) for d in parts]) for name in parts[0]._tensors()})

    def iteration(self, i: int) -> "Draws":
        """Undo `stack`: the draws of iteration i."""
        return Draws(**{name: value[:, i] for name, value in self._tensors().items()})

    def rows(self, rows: slice | Tensor) -> "Draws":
        """The draws of some rows (a slice, an index or a mask)."""
        return Draws(**{name: value[rows] for name, value in self._tensors().items()})

    def apart(self) -> "Draws":
        """Every state as a row of its own: (B * M, 1, ...) in place of (B, M, ...)."""
        num_states, per_row = self.hidden.size(1), ("variance_factor", "rolled_out")
        return Draws(
            **{
                name: value.repeat_interleave(num_states) if name in per_row else value.flatten(0, 1).unsqueeze(1)
                for name, value in self._tensors().items()
            }
        )

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if value is not None}
