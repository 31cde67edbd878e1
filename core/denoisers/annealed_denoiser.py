"""A denoiser that sees only part of the future, on the way from an autoregressive model to a bidirectional one."""

from contextlib import AbstractContextManager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.denoisers.attention import without_padding
from core.denoisers.denoiser import Denoiser


class AnnealedDenoiser(Denoiser):
    """Another denoiser, told who sees whom.

    Args:
        inner: a denoiser that takes attention masks (B, N, N).
        rule: who sees whom in every row, padding apart, (N, N); see `core.denoisers.attention.annealed`. Drawn
            beforehand, so that a forward that is made again, or in groups, sees the same.
    """

    def __init__(self, inner: Denoiser, rule: Bool[Tensor, "N N"]):
        self.inner, self.mask_id, self.rule = inner, inner.mask_id, rule

    def logits(
        self,
        ids: Int[Tensor, "B N"],
        attention_mask: Tensor | None,
        rows: Bool[Tensor, "B N"],
        position_ids: Int[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "R V"]:
        """float32 logits (R, V) of the inner denoiser, told who sees whom by ``rule`` beside what is padding."""
        places = {} if position_ids is None else {"position_ids": position_ids}
        return self.inner.logits(ids, self._visible(ids, attention_mask), rows, **places)

    def token_logps(
        self,
        ids: Int[Tensor, "B N"],
        attention_mask: Tensor | None,
        rows: Bool[Tensor, "B N"],
        targets: Int[Tensor, " R"],
        temperature: float,
        position_ids: Int[Tensor, "B N"] | None = None,
    ) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
        """The inner denoiser's log-probabilities and entropies under ``rule``, nats, (R,) both."""
        visible = self._visible(ids, attention_mask)
        return self.inner.token_logps(ids, visible, rows, targets, temperature, position_ids)

    def beneath_wrapper(self) -> "AnnealedDenoiser":
        """The same rule around the inner denoiser beneath its wrapper."""
        return AnnealedDenoiser(self.inner.beneath_wrapper(), self.rule)

    def evaluating(self) -> AbstractContextManager[None]:
        """The inner denoiser's: its model, if it has one, is put into eval mode."""
        return self.inner.evaluating()

    def _visible(self, ids: Int[Tensor, "B N"], attention_mask: Tensor | None) -> Bool[Tensor, "B N N"]:
        return without_padding(self.rule, torch.ones_like(ids) if attention_mask is None else attention_mask)
