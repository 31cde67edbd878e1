"""The seam to a model: token ids in, logits of chosen positions out.

Everything that is particular to a model (its mask token, whether its logits are shifted, where its vocabulary
projection sits) ends here; the sampler sees `Denoiser.logits` alone, and the loss `Denoiser.token_logps`. A flow over
embeddings needs two things more, which `EmbeddingDenoiser` adds: the table of embeddings and logits of any point
between them.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from core.denoisers.partial_forward import (
    checkpoints_activations,
    feed_forward_at,
    head_at,
    logits_of,
    pick,
    scoring_head_at,
)
from core.denoisers.projection import of_targets, tempered_logps
from core.denoisers.vocabulary import Never, exclude


class Denoiser(ABC):
    """Predicts the tokens behind masked positions. Attributes: ``mask_id``, the id of the mask token."""

    mask_id: int
    block_length: int | None = None  # tokens of a block of a block-causal model; None: every position sees every other
    prompt_in_blocks: bool = False  # whether a block-causal model reads its prompt in blocks, or as one

    @property
    def text_block(self) -> int | None:
        """Tokens of a block where blocks are counted from the start of the text, which is then where the place at
        which a prompt ends matters; else None."""
        return self.block_length if self.prompt_in_blocks else None

    @abstractmethod
    def logits(
        self,
        ids: Int[Tensor, "B N"],
        attention_mask: Tensor | None,
        rows: Bool[Tensor, "B N"],
        position_ids: Int[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "R V"]:
        """float32 logits at the positions where ``rows`` is True, in row-major order; -inf at the mask token
        and at rows without a token (`core.denoisers.vocabulary`).

        Args:
            ids: token ids with masks in place, (B, N).
            attention_mask: 0 on padding, (B, N); None if there is none. Or who sees whom, (B, N, N) boolean, see
                `core.denoisers.attention`: the only form that a block-causal model takes.
            rows: positions to predict, (B, N), R of them.
            position_ids: where each token stands, (B, N); None: 0..N-1.
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

    def token_logps(
        self,
        ids: Int[Tensor, "B N"],
        attention_mask: Tensor | None,
        rows: Bool[Tensor, "B N"],
        targets: Int[Tensor, " R"],
        temperature: float,
        position_ids: Int[Tensor, "B N"] | None = None,
    ) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
        """Log-probabilities of given tokens and the entropies of their distributions, where no more is needed.

        Args:
            ids, attention_mask, rows, position_ids: as in `logits`.
            targets: token ids at the R positions, in row-major order, (R,).
            temperature: of the policy, see `tempered_logps`.

        Returns:
            Log-probabilities, with gradient, and entropies, without, nats, (R,) both.
        """
        places = {} if position_ids is None else {"position_ids": position_ids}
        return of_targets(tempered_logps(self.logits(ids, attention_mask, rows, **places), temperature), targets)

    def beneath_wrapper(self) -> "Denoiser":
        """The same predictor past a wrapper that counts forward calls, for all calls of a step after the first."""
        return self

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


# What was found out about a module, once: whether a head's output is what its model returns, and whether a
# feed-forward module may be run only where its output is read.
_IS_LAST_STEP: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_MAY_SKIP: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


class ModelDenoiser(EmbeddingDenoiser):
    """A transformer with a vocabulary head, as a denoiser.

    The head projects the chosen rows only: with a 126k vocabulary that is most of the cost of scoring. It is done by
    a hook *inside* the model's own forward, so wrappers that hook the outermost forward (DDP, FSDP) stay in charge.

    Args:
        model: called as ``model(input_ids=, attention_mask=)``, or with ``inputs_embeds=`` for ids; returns logits
            (B, N, V), or an object that holds them as ``.logits``. May be wrapped.
        mask_id: id of the mask token; never predicted (its logit is -inf).
        head: the module that maps hidden states to logits as the forward's last step, or None: then the full logits
            are computed and the rows picked from them.
        logit_shift: True if the logit at position i predicts the token at i + 1 (Dream, AR-to-diffusion models).
        embedding: the module whose ``.weight`` (V, d) embeds the tokens; None if no embeddings will be asked for.
        last_feed_forward: the last layer's position-wise module, behind which only position-wise things come: it is
            then run where something is predicted and nowhere else. Looked at once, and left alone where it is not so.
            None: not known.
        never: what else is never predicted, the mask token among it; None: the mask token alone.
    """

    def __init__(
        self,
        model: nn.Module,
        mask_id: int,
        head: nn.Module | None = None,
        logit_shift: bool = False,
        embedding: nn.Module | None = None,
        last_feed_forward: nn.Module | None = None,
        never: Never | None = None,
    ):
        self.model, self.mask_id, self.head, self.logit_shift = model, mask_id, head, logit_shift
        self.embedding, self.last_feed_forward = embedding, last_feed_forward
        self.never = (slice(mask_id, mask_id + 1),) if never is None else never

    def logits(
        self,
        ids: Int[Tensor, "B N"],
        attention_mask: Tensor | None,
        rows: Bool[Tensor, "B N"],
        position_ids: Int[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "R V"]:
        """float32 logits (R, V) by one forward; a known head is run at ``rows`` alone."""
        return self._logits({"input_ids": ids, **self._attention(attention_mask, position_ids)}, rows)

    def logits_at(
        self, ids: Int[Tensor, "B N"], attention_mask: Tensor | None, columns: Int[Tensor, "B K"]
    ) -> Float[Tensor, "R V"]:
        """float32 logits (B * K, V); a shifted model goes through `logits`, which refuses position 0."""
        if self.logit_shift:  # through `logits`, which looks for position 0
            return super().logits_at(ids, attention_mask, columns)
        return self._logits({"input_ids": ids, **self._attention(attention_mask)}, columns)

    def token_logps(
        self,
        ids: Int[Tensor, "B N"],
        attention_mask: Tensor | None,
        rows: Bool[Tensor, "B N"],
        targets: Int[Tensor, " R"],
        temperature: float,
        position_ids: Int[Tensor, "B N"] | None = None,
    ) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
        """See `Denoiser.token_logps`; the logits are made chunk by chunk and never kept, see
        `core.denoisers.projection`."""
        inputs = {"input_ids": ids, **self._attention(attention_mask, position_ids)}
        if self.head is None or not self._head_is_last_step(inputs):
            return super().token_logps(ids, attention_mask, rows, targets, temperature, position_ids)
        rows = self._shifted(rows)
        with (
            feed_forward_at(self._skippable(inputs), rows),
            scoring_head_at(self.head, rows, targets, self.never, temperature),
        ):
            logps, entropies = logits_of(self.model, inputs).unbind(dim=1)
        return logps, entropies.detach()

    def beneath_wrapper(self) -> "ModelDenoiser":
        """Past DDP, which takes every forward call for the start of a step."""
        if not isinstance(self.model, nn.parallel.DistributedDataParallel):
            return self
        inner = copy.copy(self)
        inner.model = self.model.module
        return inner

    def embedding_table(self) -> Float[Tensor, "V d"]:
        """The rows of ``embedding.weight``, each divided by its root mean square, float32, (V, d)."""
        table = self._embedding_weight().detach().float()
        scale = table.square().mean(dim=1, keepdim=True).sqrt()
        return table / scale.clamp(min=torch.finfo(table.dtype).tiny)  # the padding token's row may be zero

    def logits_from_embeddings(
        self, embeddings: Float[Tensor, "B N d"], attention_mask: Tensor | None, rows: Bool[Tensor, "B N"]
    ) -> Float[Tensor, "R V"]:
        """float32 logits (R, V) by one forward on ``inputs_embeds``, in the dtype of the model's own embeddings."""
        embeddings = embeddings.to(self._embedding_weight().dtype)
        return self._logits({"inputs_embeds": embeddings, **self._attention(attention_mask)}, rows)

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

    def _attention(
        self, attention_mask: Tensor | None, position_ids: Tensor | None = None
    ) -> dict[str, Tensor | None]:
        """The model's arguments that say who sees whom and who stands where."""
        if attention_mask is not None and attention_mask.ndim == 3:
            attention_mask = self._rule(attention_mask)
        elif self.block_length is not None:
            raise ValueError(
                f"a block-causal model (block_length={self.block_length}) needs to be told who sees whom: expected "
                "attention_mask (B, N, N), as core.denoisers.attention builds it, got "
                f"{None if attention_mask is None else tuple(attention_mask.shape)}"
            )
        return {"attention_mask": attention_mask} | ({} if position_ids is None else {"position_ids": position_ids})

    def _rule(self, visible: Bool[Tensor, "B Q N"]) -> Tensor:
        """Who sees whom, in the form that the model takes: one rule for all heads."""
        return visible.unsqueeze(1)

    def _logits(self, inputs: dict[str, Any], rows: Tensor) -> Float[Tensor, "R V"]:
        """The model's float32 logits at ``rows``, a mask (B, N) or columns (B, K): shifted if need be, projected there
        alone, -inf at what is never predicted."""
        rows = self._shifted(rows)
        with feed_forward_at(self._skippable(inputs), rows):
            if self.head is None:
                logits = pick(logits_of(self.model, inputs), rows)
            else:
                with head_at(self.head, rows):
                    logits = logits_of(self.model, inputs)
        return exclude(logits.float(), self.never)

    def _shifted(self, rows: Tensor) -> Tensor:
        """Where the logits for ``rows`` stand."""
        if not self.logit_shift:
            return rows
        if bool(rows[:, 0].any()):
            raise ValueError("position 0 cannot be predicted by a model with shifted logits: give it a prompt")
        return rows.roll(-1, dims=1)

    def _head_is_last_step(self, inputs: dict[str, Any]) -> bool:
        """Whether the model returns what its head gives, found out once for each head, on one sequence.

        A model may cap, scale, shift or cut its logits after the head: `token_logps` has none that it could do so to.
        """
        head = self.head
        if head is None:
            return False
        if head not in _IS_LAST_STEP:
            given = []
            handle = head.register_forward_hook(lambda _, args, output: given.append(output.clone()))
            try:
                with self._looking(inputs) as (first, end), head_at(head, end):
                    returned = logits_of(self.beneath_wrapper().model, first)
            finally:
                handle.remove()
            _IS_LAST_STEP[head] = len(given) == 1 and torch.equal(given[0], returned)
        return _IS_LAST_STEP[head]

    def _skippable(self, inputs: dict[str, Any]) -> nn.Module | None:
        """`last_feed_forward`, where what it gives at other positions changes nothing; found out once.

        Not with gradient checkpointing, which runs the layer again when this call is over.
        """
        module, model = self.last_feed_forward, self.beneath_wrapper().model
        if module is None or (torch.is_grad_enabled() and checkpoints_activations(model)):
            return None
        if module not in _MAY_SKIP:
            with self._looking(inputs) as (first, end):
                whole = pick(logits_of(model, first), end).float()
                try:
                    with feed_forward_at(module, end):
                        skipped = pick(logits_of(model, first), end).float()
                except (TypeError, ValueError, AttributeError, RuntimeError):  # not a function of hidden states alone
                    skipped = torch.full_like(whole, torch.nan)
            # a product of other size rounds differently; a module that looks at other positions is far off. Broken
            # weights make the deviation NaN, which allclose refuses and which is not for us to tell.
            near = 0.02 * float(whole.std().nan_to_num())
            _MAY_SKIP[module] = torch.allclose(skipped, whole, rtol=0, atol=near)
        return module if _MAY_SKIP[module] else None

    @contextmanager
    def _looking(self, inputs: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Int[Tensor, "1 1"]]]:
        """To try something on the first sequence by itself, leaving no trace: its inputs, and its last position."""
        name = "inputs_embeds" if inputs.get("input_ids") is None else "input_ids"
        first = inputs[name][:1]
        end = torch.full((1, 1), first.size(1) - 1, device=first.device)
        mask = inputs["attention_mask"]
        if mask is not None:  # some models take none but with a mask; of a span behind stored keys, what is its own
            mask = mask[:1, ..., -first.size(1) :]
        devices = [] if first.device.type == "cpu" else [first.device]
        with torch.no_grad(), torch.random.fork_rng(devices):
            yield {name: first, "attention_mask": mask}, end

    def _embedding_weight(self) -> Tensor:
        if self.embedding is None:
            raise ValueError("this denoiser was built without the model's input embedding, which a flow needs")
        return self.embedding.weight  # pyright: ignore[reportReturnType]
