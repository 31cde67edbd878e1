"""A rollout as a value: the tokens, when each was revealed, and with what probability."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NEVER = torch.iinfo(torch.int64).max  # step_map of a position that no step revealed: its row had stopped before


# What ends a completion: one token, or several, of which the first also fills the rest of a canvas; None: nothing.
# A model that was tuned on turns ends one with a token of its own, and fills up with the end of all text.
EosIds = int | tuple[int, ...] | None


def fill_id(eos_id: int | tuple[int, ...]) -> int:
    """The token behind the end of a text, up to the end of its canvas."""
    return eos_id if isinstance(eos_id, int) else eos_id[0]


def ends_text(ids: Int[Tensor, "*N"], eos_id: EosIds) -> Bool[Tensor, "*N"]:
    """Which tokens end a completion; the host is not asked."""
    found = torch.zeros_like(ids, dtype=torch.bool)
    if eos_id is None:
        return found
    for one in (eos_id,) if isinstance(eos_id, int) else eos_id:
        found = found | (ids == one)
    return found


def tokens_to_first_eos(ids: Int[Tensor, "B L"], eos_id: EosIds) -> Int[Tensor, " B"]:
    """Number of tokens up to and including the first that ends the text; L where there is none."""
    is_eos = ends_text(ids, eos_id)
    first = is_eos.int().argmax(dim=1)
    return torch.where(is_eos.any(dim=1), first + 1, ids.size(1))


@dataclass(frozen=True)
class Trajectory:
    """What the sampler did, batch first.

    Attributes:
        ids: the canvas as the sampler left it, (B, L). Positions that a stopped row never revealed hold EOS.
        step_map: the evaluation of the row (0, 1, ...; of the batch in the ancestral sampler, which passes over rows)
            that revealed each token, (B, L); `NEVER` where none did. Before step s the model saw exactly the tokens
            with step_map < s.
        commit_logps: log-probability, at the sampling temperature, with which each token was drawn in its step,
            (B, L); 0 where no step revealed the token. Greedy (temperature 0) commits are certain: 0 everywhere.
        lengths: tokens up to and including the first EOS, (B,).
        stopped: True where the row ended by EOS, False where it filled its canvas ("length"), (B,).
        forwards: denoiser evaluations in which the row took part, (B,).
        exact: whether the commit log-probs multiply to the probability of the path. True for rules that choose
            positions from the distribution or from chance alone, False where the drawn token influences its own
            position (low_confidence), where tokens are drawn again (renoise, revise) or from an extrapolated law (the
            solvers dpm and unipc), and for greedy decoding.
        eos_id: what ends a completion, see `EosIds`.
        lead: tokens of the prompt that share a block with the first tokens of the canvas, (B,), see
            `core.denoisers.attention.leads`; None: the model's blocks, if it has any, begin where the canvas does.
    """

    ids: Int[Tensor, "B L"]
    step_map: Int[Tensor, "B L"]
    commit_logps: Float[Tensor, "B L"]
    lengths: Int[Tensor, " B"]
    stopped: Bool[Tensor, " B"]
    forwards: Int[Tensor, " B"]
    exact: bool
    eos_id: EosIds
    lead: Int[Tensor, " B"] | None = None

    @property
    def completion_ids(self) -> Int[Tensor, "B L"]:
        """The finished text: the canvas with everything after the first EOS overwritten by what fills it."""
        if self.eos_id is None:
            return self.ids
        return torch.where(self.completion_mask, self.ids, fill_id(self.eos_id))

    @property
    def completion_mask(self) -> Bool[Tensor, "B L"]:
        """True up to and including the first EOS."""
        return torch.arange(self.ids.size(1), device=self.ids.device) < self.lengths.unsqueeze(1)

    @property
    def finish_reason(self) -> list[str]:
        """Why each row ends: "eos", or "length" where the canvas is full without one."""
        return ["eos" if stopped else "length" for stopped in self.stopped.tolist()]

    def completions(self) -> list[list[int]]:
        """Token ids of each row, cut after the first EOS."""
        return [ids[:length] for ids, length in zip(self.ids.tolist(), self.lengths.tolist(), strict=True)]

    def __len__(self) -> int:
        return self.ids.size(0)

    def __getitem__(self, rows: slice | Tensor) -> "Trajectory":
        """The trajectory of some rows (a slice or an index tensor)."""
        tensors = {name: value[rows] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)

    @staticmethod
    def cat(parts: "list[Trajectory]") -> "Trajectory":
        """Trajectories of equal canvas length, one below the other."""
        names = [name for name, value in vars(parts[0]).items() if isinstance(value, Tensor)]
        tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        return replace(parts[0], exact=all(part.exact for part in parts), **tensors)
