"""Key-value memory for transformers' models: `core.denoisers.cached_denoiser` through their own cache protocol.

A model's attention hands every layer's new keys and values to ``past_key_values.update`` and attends to what comes
back. `_Span` gives back the stored ones in front of the new ones, and keeps the new ones alone: the memory itself is
never written to.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin

from core.denoisers import CachedDenoiser, KeyValues, ModelDenoiser
from core.denoisers.attention import bidirectional
from core.denoisers.vocabulary import Never


class RuledModelDenoiser(ModelDenoiser):
    """A transformers model as a denoiser that can be told who sees whom, and that may be block-causal.

    Args:
        model, mask_id, head, logit_shift, embedding, last_feed_forward, never: see `ModelDenoiser`.
        attention: how the model is told who sees whom: a name of `RULES`, by transformers' name of the kernel.
        block_length: tokens of a block of a block-causal model; None: bidirectional.
        prompt_in_blocks: whether a block-causal model reads its prompt in blocks.
        pairwise: the model takes who sees whom, and not a mask of what is padding.
        counts_padding: the model numbers positions from the start of the row, padding included, and cares: positions
            are then given to it.

    Raises:
        ValueError: a block-causal model with shifted logits.
    """

    def __init__(
        self,
        model: nn.Module,
        mask_id: int,
        head: nn.Module | None = None,
        logit_shift: bool = False,
        embedding: nn.Module | None = None,
        last_feed_forward: nn.Module | None = None,
        attention: str | None = "sdpa",
        block_length: int | None = None,
        prompt_in_blocks: bool = False,
        pairwise: bool = False,
        counts_padding: bool = False,
        never: Never | None = None,
    ):
        super().__init__(model, mask_id, head, logit_shift, embedding, last_feed_forward, never)
        if block_length is not None and logit_shift:
            raise ValueError(
                f"block_length={block_length}: a block-causal model cannot have shifted logits, its first position "
                "of a block is predicted from a position that does not see the block"
            )
        self.attention, self.block_length, self.prompt_in_blocks = attention, block_length, prompt_in_blocks
        self.pairwise, self.counts_padding = pairwise, counts_padding

    def _attention(
        self, attention_mask: Tensor | None, position_ids: Tensor | None = None
    ) -> dict[str, Tensor | None]:
        if attention_mask is not None and attention_mask.ndim == 2:
            if self.counts_padding and position_ids is None:
                position_ids = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
            if self.pairwise and self.block_length is None:
                attention_mask = bidirectional(attention_mask)
        return super()._attention(attention_mask, position_ids)

    def _rule(self, visible: Bool[Tensor, "B Q N"]) -> Tensor:
        if self.attention not in RULES:
            raise ValueError(
                f"model.attn_implementation={self.attention!r} cannot be told who sees whom; expected one of "
                f"{', '.join(RULES)}"
            )
        return RULES[self.attention](visible.unsqueeze(1))


class CachedModelDenoiser(RuledModelDenoiser, CachedDenoiser):
    """One that can also be run on a span of positions, by the model's own cache protocol.

    Args:
        args, kwargs: see `RuledModelDenoiser`.
        stores: the argument that makes the model write to the cache that it is given, one of `STORES`.
    """

    def __init__(self, *args: Any, stores: str = "use_cache", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.stores = stores

    def logits_with(
        self,
        ids: Int[Tensor, "B Q"],
        positions: Int[Tensor, "B Q"],
        visible: Bool[Tensor, "B Q K"] | None,
        memory: KeyValues | None,
        columns: Int[Tensor, "B C"],
    ) -> tuple[Float[Tensor, "R V"], KeyValues]:
        """Run a span on stored keys and values by the model's own cache; no shifted logits, no absolute positions."""
        if self.logit_shift:
            raise ValueError("a model with shifted logits predicts the start of a span from outside of it: no cache")
        if self.counts_padding:
            raise ValueError("a model with absolute positions needs them without padding, which a cache counts")
        span = _Span(memory)
        if visible is None and self.pairwise:  # it may take no other form
            keys = ids.size(1) + (0 if memory is None else len(memory))
            visible = torch.ones(*ids.shape, keys, dtype=torch.bool, device=ids.device)
        inputs = {"input_ids": ids, "attention_mask": None if visible is None else self._rule(visible)}
        inputs |= {"position_ids": positions, "past_key_values": span, "use_cache": True, self.stores: True}
        return self._logits(inputs, columns), span.written()


# ways to say that keys and values are to be stored: transformers', and SDAR's (2510.06303), which else reads only
STORES = ("use_cache", "store_kv")


def _boolean(visible: Bool[Tensor, "B 1 Q N"]) -> Bool[Tensor, "B 1 Q N"]:
    return visible


def _additive(visible: Bool[Tensor, "B 1 Q N"]) -> Float[Tensor, "B 1 Q N"]:
    """What is added to the attention scores, which the softmax then takes in float32: 0, or the least there is."""
    return torch.zeros(visible.shape, device=visible.device).masked_fill(~visible, torch.finfo(torch.float32).min)


# attention kernels that take a rule of their own, and how each wants it
RULES: dict[str, Callable[[Tensor], Tensor]] = {"sdpa": _boolean, "eager": _additive}


class _SpanLayer(CacheLayerMixin):
    """One layer of a `_Span`; ``keys`` and ``values`` are the stored ones."""

    written: tuple[Tensor, Tensor]

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None):
        super().__init__()
        self.keys, self.values = keys, values

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to prepare."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.written = key_states, value_states
        if self.keys is None or self.values is None:
            return self.written
        return torch.cat([self.keys, key_states], dim=2), torch.cat([self.values, value_states], dim=2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return 0 if self.keys is None else self.keys.size(2)

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # what the earliest 5.x of transformers call it


class _Span(Cache):
    """A cache for one forward: reads a memory, keeps what the forward wrote.

    Model files of transformers 4 read more of a cache than its successor has: its length by another name (LLaDA2), and
    a layer's keys and values by number (SDAR).
    """

    layers: list[_SpanLayer]

    def __init__(self, memory: KeyValues | None):
        if memory is None:
            super().__init__(layer_class_to_replicate=_SpanLayer)
        else:
            super().__init__(layers=[_SpanLayer(*stored) for stored in zip(memory.keys, memory.values, strict=True)])

    def __getitem__(self, layer_idx: int) -> tuple[Tensor | None, Tensor | None]:
        layer = self.layers[layer_idx]
        return layer.keys, layer.values

    def get_usable_length(self, new_seq_length: int, layer_idx: int = 0) -> int:
        return self.get_seq_length(layer_idx)

    def written(self) -> KeyValues:
        keys, values = zip(*(layer.written for layer in self.layers), strict=True)
        return KeyValues(keys, values)
