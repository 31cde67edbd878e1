"""Batches without padding, for a model that cannot be told what is padding.

Some model files take an attention mask and ignore it (LLaDA's, 2502.09992): a padded prompt is then answered as if the
padding were text. Rows of equal length need no mask.
"""

from contextlib import AbstractContextManager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.denoisers.denoiser import EmbeddingDenoiser, ModelDenoiser


class UnpaddedDenoiser(EmbeddingDenoiser):
    """Another denoiser, called once for every number of padding tokens that rows of a batch begin with.

    The padding is cut off and no mask is handed on; what comes back is put in the order of the rows of the batch.

    Args:
        inner: a denoiser whose model ignores attention masks.
    """

    def __init__(self, inner: ModelDenoiser):
        self.inner, self.model, self.mask_id, self.never = inner, inner.model, inner.mask_id, inner.never

    def logits(
        self,
        ids: Int[Tensor, "B N"],
        attention_mask: Tensor | None,
        rows: Bool[Tensor, "B N"],
        position_ids: Int[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "R V"]:
        """float32 logits (R, V), by a forward of the inner denoiser for each length of padding."""
        groups = _groups(attention_mask, ids)
        parts = [
            self.inner.logits(ids[group, cut:], None, rows[group, cut:], _part(position_ids, group, cut))
            for group, cut in groups
        ]
        return _joined(parts, _order(groups, rows))

    def token_logps(
        self,
        ids: Int[Tensor, "B N"],
        attention_mask: Tensor | None,
        rows: Bool[Tensor, "B N"],
        targets: Int[Tensor, " R"],
        temperature: float,
        position_ids: Int[Tensor, "B N"] | None = None,
    ) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
        """Log-probabilities and entropies, nats, (R,) both, by one scoring for each length of padding."""
        wanted, groups = torch.zeros_like(ids).masked_scatter(rows, targets), _groups(attention_mask, ids)
        logps, entropies = [], []
        for group, cut in groups:
            asked, places = rows[group, cut:], _part(position_ids, group, cut)
            own = wanted[group, cut:][asked]
            scored = self.inner.token_logps(ids[group, cut:], None, asked, own, temperature, places)
            logps.append(scored[0])
            entropies.append(scored[1])
        order = _order(groups, rows)
        return _joined(logps, order), _joined(entropies, order)

    def embedding_table(self) -> Float[Tensor, "V d"]:
        """The inner denoiser's table, float32, (V, d): padding does not touch it."""
        return self.inner.embedding_table()

    def logits_from_embeddings(
        self, embeddings: Float[Tensor, "B N d"], attention_mask: Tensor | None, rows: Bool[Tensor, "B N"]
    ) -> Float[Tensor, "R V"]:
        """float32 logits (R, V), by a forward for each length of padding, whose embeddings are cut off."""
        groups = _groups(attention_mask, embeddings)
        parts = [
            self.inner.logits_from_embeddings(embeddings[group, cut:], None, rows[group, cut:])
            for group, cut in groups
        ]
        return _joined(parts, _order(groups, rows))

    def beneath_wrapper(self) -> "UnpaddedDenoiser":
        """The same cut around the inner denoiser beneath its wrapper."""
        return UnpaddedDenoiser(self.inner.beneath_wrapper())

    def evaluating(self) -> AbstractContextManager[None]:
        """The inner denoiser's: no gradient, and its model in eval mode."""
        return self.inner.evaluating()


Groups = list[tuple[Int[Tensor, " _"], int]]  # the rows of each, of any number, and what is cut off


def _groups(attention_mask: Tensor | None, batch: Tensor) -> Groups:
    """Rows that begin with equally many padding tokens, and how many: one group a length."""
    if attention_mask is None:
        return [(torch.arange(batch.size(0), device=batch.device), 0)]
    if attention_mask.ndim != 2 or bool((attention_mask.bool().diff(dim=1) & ~attention_mask[:, 1:].bool()).any()):
        raise ValueError(
            "a model that ignores attention masks takes padding on the left alone: expected attention_mask (B, N) of "
            f"zeros, then ones, got one of shape {tuple(attention_mask.shape)}"
        )
    padding = (attention_mask == 0).sum(dim=1)
    return [((padding == cut).nonzero().flatten(), cut) for cut in padding.unique().tolist()]


def _order(groups: Groups, rows: Bool[Tensor, "B N"]) -> Int[Tensor, " R"] | None:
    """What puts the results of the groups, one behind another, into row-major order of ``rows``; None: they are."""
    if len(groups) == 1:
        return None
    number = torch.arange(int(rows.sum()), device=rows.device)
    place = torch.zeros(rows.shape, dtype=torch.int64, device=rows.device).masked_scatter(rows, number)
    return torch.cat([place[group][rows[group]] for group, _ in groups]).argsort()


def _joined(parts: list[Tensor], order: Int[Tensor, " R"] | None) -> Tensor:
    return parts[0] if order is None else torch.cat(parts)[order]


def _part(position_ids: Tensor | None, group: Tensor, cut: int) -> Tensor | None:
    """The positions of a group; those of its first token stay what they are."""
    return None if position_ids is None else position_ids[group, cut:]
