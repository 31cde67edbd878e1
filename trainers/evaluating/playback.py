"""How one completion was written, as plain values that JSON knows: its tokens, and the step that revealed each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from core.trajectory import NEVER, Trajectory

NOT_REVEALED = -1  # the step of a position that no step revealed: its row had stopped before


@dataclass(frozen=True)
class Playback:
    """One row of a `core.trajectory.Trajectory`, to be played step by step.

    Attributes:
        tokens: the text of every position of the canvas, special tokens by their names, L of them.
        steps: the evaluation (0, 1, ...) that revealed each; `NOT_REVEALED`: none did.
        logps: log-probability with which each was drawn, nats, to 4 decimals; None: not a number.
        length: tokens up to and including the end of the text; the rest of the canvas is filled up.
        finish: "eos" or "length".
        text: the completion as it is judged, without special tokens.
    """

    tokens: list[str]
    steps: list[int]
    logps: list[float | None]
    length: int
    finish: str
    text: str


def playbacks(tokenizer: PreTrainedTokenizerBase, trajectory: Trajectory, rows: Sequence[int]) -> list[Playback]:
    """Some rows of a trajectory, in the order of ``rows``."""
    if not rows:
        return []
    picked = trajectory[trajectory.lengths.new_tensor(rows)]
    pieces = _pieces(tokenizer, picked.ids.tolist())
    steps = picked.step_map.masked_fill(picked.step_map == NEVER, NOT_REVEALED)
    texts = tokenizer.batch_decode(picked.completions(), skip_special_tokens=True)
    columns = (
        picked.ids.tolist(),
        steps.tolist(),
        picked.commit_logps.float().tolist(),
        picked.lengths.tolist(),
        picked.finish_reason,
        texts,
    )
    return [
        Playback([pieces[i] for i in ids], own, [_rounded(logp) for logp in logps], length, finish, text)
        for ids, own, logps, length, finish, text in zip(*columns, strict=True)
    ]


def _rounded(logp: float) -> float | None:
    return round(logp, 4) if math.isfinite(logp) else None


def _pieces(tokenizer: PreTrainedTokenizerBase, canvases: list[list[int]]) -> dict[int, str]:
    """Token id -> its own text, each asked for once."""
    ids = sorted({i for canvas in canvases for i in canvas})
    return dict(zip(ids, tokenizer.batch_decode([[i] for i in ids]), strict=True))
