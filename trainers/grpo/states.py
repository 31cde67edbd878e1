"""The states that a rollout is scored on: drawn once, right after it, and stored in TRL's batch dictionary.

Old, reference and current policy are scored on the same states, so with unchanged weights every ratio is exactly 1.
The states travel with the batch dimension first under keys with the prefix `DRAWS`: TRL's own shuffle and split keep
them beside their completions. Shapes: B rows, I iterations over the rollout, M states of an iteration, L tokens of the
canvas, of which the first C are TRL's completion.
"""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from core.scoring import Draws, by_sign

DRAWS = "draws/"  # prefix of the drawn states in TRL's batch
CANVAS = "canvas_ids"  # the whole canvas behind completion_ids, (B, L)
COMMITS = "commit_logps"  # log-probs with which the rollout committed its tokens, (B, L)
OLD, REFERENCE = "old_per_token_logps", "ref_per_token_logps"  # TRL's keys of both policies' log-probs


@dataclass(frozen=True)
class StoredStates:
    """A rollout as it is scored.

    Attributes:
        canvas_ids: the tokens, (B, L).
        commit_logps: log-probs with which the sampler committed them, (B, L).
        draws: the states of every iteration, (B, I, ...).
        replays_exactly: whether the states are the very ones in which an exact sampler committed the tokens.
    """

    canvas_ids: Int[Tensor, "B L"]
    commit_logps: Float[Tensor, "B L"]
    draws: Draws
    replays_exactly: bool = False

    def to_dict(self) -> dict[str, Tensor]:
        """What goes into TRL's batch."""
        return {CANVAS: self.canvas_ids, COMMITS: self.commit_logps, **self.draws.to_dict(DRAWS)}

    @property
    def iterations(self) -> list[Draws]:
        """The states of each iteration, (B, ...)."""
        return [self.draws.iteration(i) for i in range(self.draws.hidden.size(1))]


@dataclass(frozen=True)
class PickedStates:
    """A micro-batch with the states of one iteration, as the loss scores it.

    Attributes:
        canvas_ids, commit_logps: as in `StoredStates`.
        draws: the states of this iteration, (B, ...).
        text: which tokens of the canvas are TRL's completion, (B, L).
        advantages: (B,).
        old_logps: what the ratio compares with, (B, C); None: the current policy's own.
    """

    canvas_ids: Int[Tensor, "B L"]
    commit_logps: Float[Tensor, "B L"]
    draws: Draws
    text: Bool[Tensor, "B L"]
    advantages: Float[Tensor, " B"]
    old_logps: Float[Tensor, "B C"] | None


def pick(batch: dict[str, Any], iteration: int) -> tuple[dict[str, Any], PickedStates]:
    """The states of one iteration out of TRL's batch.

    Args:
        batch: TRL's, with `StoredStates.to_dict` in it; log-probs of old and reference policy are (B, I, 2, C).
        iteration: which.

    Returns:
        The batch with log-probs (B, C), those of this iteration and of each advantage's sign; and the states.
    """
    advantages, length = batch["advantages"], batch[CANVAS].size(1)
    logps = {key: by_sign(batch[key][:, iteration], advantages) for key in (OLD, REFERENCE) if key in batch}
    picked = PickedStates(
        batch[CANVAS],
        batch[COMMITS],
        Draws.from_dict(batch, DRAWS).iteration(iteration),
        pad_columns(batch["completion_mask"].bool(), length),
        advantages,
        logps.get(OLD),
    )
    return batch | logps, picked


def pad_columns(mask: Bool[Tensor, "B C"], length: int) -> Bool[Tensor, "B L"]:
    """A mask of the completion with False up to the canvas length."""
    return nn.functional.pad(mask, (0, length - mask.size(1)))
