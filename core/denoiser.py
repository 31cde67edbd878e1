"""The seam to a model: token ids in, logits of chosen positions out.

Everything that is particular to a model (its mask token, whether its logits are shifted, where its vocabulary
projection sits) ends here; the sampler and the loss see `Denoiser.logits` alone. A flow over embeddings needs two
things more, which `EmbeddingDenoiser` adds: the table of embeddings and logits of any point between them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class Denoiser(ABC):
    """Predicts the tokens behind masked positions. Attributes: ``mask_id``, the id of the mask token."""

    mask_id: int

    @abstractmethod
    def logits(
        self, ids: Int[Tensor, "B N"], attention_mask: Tensor | None, rows: Bool[Tensor, "B N"]
    ) -> Float[Tensor, "R V"]:
        """float32 logits at the positions where ``rows`` is True, in row-major order; -inf at the mask token.

        Args:
            ids: token ids with masks in place, (B, N).
            attention_mask: 0 on padding, (B, N); None if there is none.
            rows: positions to predict, (B, N), R of them.
        """

    def logits_at(
        self, ids: Int[Tensor, "B N"], attention_mask: Tensor | None, columns: Int[Tensor, "B K"]
    ) -> Float[Tensor, "R V"]:
        """As `logits`, for the same number of positions in every row: R = B * K, and no size depends on values, so a
        GPU is never waited for.

        Args:
            columns: positions to predict, ascending in each row, none twice, (B, K).
        """
        return self.logits(ids, attention_mask, torch.zeros_like(ids, dtype=torch.bool).scatter(1, columns, True))

    def evaluating(self) -> AbstractContextManager[None]:
        """For rollouts inside a training step: no gradient, and eval mode where there is a model to put into it."""
        return torch.no_grad()


class EmbeddingDenoiser(Denoiser):
    """A denoiser that also accepts points of its embedding space in place of tokens."""

    @abstractmethod
    def embedding_table(self) -> Float[Tensor, "V d"]:
        """The token embeddings in float32, detached, each row scaled to root mean square 1 (a row of zeros stays)."""

    @abstractmethod
    def logits_from_embeddings(
        self, embeddings: Float[Tensor, "B N d"], attention_mask: Tensor | None, rows: Bool[Tensor, "B N"]
    ) -> Float[Tensor, "R V"]:
        """As `logits`, for embeddings (B, N, d) on the scale of `embedding_table` instead of ids."""


def tempered_logps(logits: Float[Tensor, "R V"], temperature: float) -> Float[Tensor, "R V"]:
    """Log-probabilities of the policy: log softmax(logits / temperature); temperature 0 (greedy) scores at 1."""
    return torch.log_softmax(logits / temperature if temperature > 0 else logits, dim=-1)


def _pick(hidden: Float[Tensor, "B N d"], rows: Tensor) -> Float[Tensor, "R d"]:
    """Of (B, N, d), what stands at ``rows``: a mask (B, N), or columns (B, K)."""
    if rows.dtype == torch.bool:
        return hidden[rows]
    return hidden.gather(1, rows.unsqueeze(2).expand(-1, -1, hidden.size(2))).flatten(0, 1)


@contextmanager
def _only_rows(head: nn.Module, rows: Tensor) -> Iterator[None]:
    """Let ``head`` see only the hidden states at ``rows``, so that the forward returns logits (R, V)."""
    handle = head.register_forward_pre_hook(lambda _, args: (_pick(args[0], rows), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


class ModelDenoiser(EmbeddingDenoiser):
    """A transformer with a vocabulary head, as a denoiser.

    The head projects the chosen rows only: with a 126k vocabulary that is most of the cost of scoring. It is done by
    a hook *inside* the model's own forward, so wrappers that hook the outermost forward (DDP, FSDP) stay in charge.

    Args:
        model: called as ``model(input_ids=, attention_mask=)``, or with ``inputs_embeds=`` for ids; returns an object
            with ``.logits``. May be wrapped.
        mask_id: id of the mask token; never predicted (its logit is -inf).
        head: the module that maps hidden states to logits as the forward's last step, or None: then the full logits
            are computed and the rows picked from them.
        logit_shift: True if the logit at position i predicts the token at i + 1 (Dream, AR-to-diffusion models).
        embedding: the module whose ``.weight`` (V, d) embeds the tokens; None if no embeddings will be asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        mask_id: int,
        head: nn.Module | None = None,
        logit_shift: bool = False,
        embedding: nn.Module | None = None,
    ):
        self.model, self.mask_id, self.head, self.logit_shift = model, mask_id, head, logit_shift
        self.embedding = embedding

    def logits(
        self, ids: Int[Tensor, "B N"], attention_mask: Tensor | None, rows: Bool[Tensor, "B N"]
    ) -> Float[Tensor, "R V"]:
        return self._logits({"input_ids": ids, "attention_mask": attention_mask}, rows)

    def logits_at(
        self, ids: Int[Tensor, "B N"], attention_mask: Tensor | None, columns: Int[Tensor, "B K"]
    ) -> Float[Tensor, "R V"]:
        if self.logit_shift:  # through `logits`, which looks for position 0
            return super().logits_at(ids, attention_mask, columns)
        return self._logits({"input_ids": ids, "attention_mask": attention_mask}, columns)

    def embedding_table(self) -> Float[Tensor, "V d"]:
        table = self._embedding_weight().detach().float()
        scale = table.square().mean(dim=1, keepdim=True).sqrt()
        return table / scale.clamp(min=torch.finfo(table.dtype).tiny)  # the padding token's row may be zero

    def logits_from_embeddings(
        self, embeddings: Float[Tensor, "B N d"], attention_mask: Tensor | None, rows: Bool[Tensor, "B N"]
    ) -> Float[Tensor, "R V"]:
        embeddings = embeddings.to(self._embedding_weight().dtype)
        return self._logits({"inputs_embeds": embeddings, "attention_mask": attention_mask}, rows)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """No gradient and eval mode; afterwards every submodule is back in the mode that it was in."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, training in modes:
                module.training = training

    def _logits(self, inputs: dict[str, Tensor | None], rows: Tensor) -> Float[Tensor, "R V"]:
        """The model's float32 logits at ``rows``, a mask (B, N) or columns (B, K): shifted if need be, projected there
        alone, mask token excluded."""
        if self.logit_shift:
            if bool(rows[:, 0].any()):
                raise ValueError("position 0 cannot be predicted by a model with shifted logits: give it a prompt")
            rows = rows.roll(-1, dims=1)
        if self.head is None:
            logits = _pick(self.model(**inputs).logits, rows)
        else:
            with _only_rows(self.head, rows):
                logits = self.model(**inputs).logits
        logits = logits.float()
        if not logits.requires_grad:
            logits[:, self.mask_id] = float("-inf")  # in place: at large vocabularies a copy is what sampling costs
            return logits
        mask_column = torch.zeros(logits.size(-1), dtype=torch.bool, device=logits.device)
        mask_column[self.mask_id] = True
        return logits.masked_fill(mask_column, float("-inf"))

    def _embedding_weight(self) -> Tensor:
        if self.embedding is None:
            raise ValueError("this denoiser was built without the model's input embedding, which a flow needs")
        return self.embedding.weight  # pyright: ignore[reportReturnType]
