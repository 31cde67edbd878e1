"""A policy: a model with all that is needed to denoise with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from core.denoisers import ModelDenoiser, UnpaddedDenoiser
from core.denoisers.vocabulary import Never, all_but
from trainers.models.caching import CachedModelDenoiser, RuledModelDenoiser
from trainers.models.formats import BARE, PromptFormat
from trainers.tasks.messages import Prompt


@dataclass(frozen=True)
class Calling:
    """How a model takes what it is told beside tokens; found out by `trainers.models.probes`.

    Attributes:
        padding: mask: it takes a mask of what is padding; pairwise: who sees whom; none: it ignores both, and rows
            are put into batches of equal length.
        attention: the form in which it takes who sees whom, a name of `trainers.models.caching.RULES`; None: its
        kernel's.
        counts_padding: it must be given positions, or it numbers them from the padding on.
        head: its vocabulary head may be run on chosen positions alone.
        stores: what makes it store keys and values, a name of `trainers.models.caching.STORES`; None: nothing does.
    """

    padding: str = "mask"
    attention: str | None = None
    counts_padding: bool = False
    head: bool = True
    stores: str | None = "use_cache"


@dataclass(frozen=True)
class Policy:
    """A model with all that is needed to denoise with it.

    Attributes:
        model, tokenizer: weights and text.
        logit_shift: see `ModelDenoiser`.
        block_length: tokens of a block where the model is block-causal; None: bidirectional.
        prompt_in_blocks: whether a block-causal model reads its prompt in blocks.
        calling: how the model is called.
        family: a name of `trainers.models.families.FAMILIES`.
        name: what it was loaded from, good on any machine; of an adapter, its base model. Empty: not known.
        format: how prompts and completions become tokens.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    logit_shift: bool = False
    block_length: int | None = None
    prompt_in_blocks: bool = False
    calling: Calling = Calling()
    family: str = "autoregressive"
    name: str = ""
    format: PromptFormat = BARE

    @property
    def mask_id(self) -> int:
        """Id of the mask token."""
        return _one(self.tokenizer.mask_token_id)

    @property
    def eos_id(self) -> int:
        """Id of the token that ends a completion and fills the rest of its canvas."""
        return _one(self.tokenizer.eos_token_id)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids of all tokens that end a completion; the first one fills the rest of its canvas."""
        return tuple(dict.fromkeys((self.eos_id, *self.format.turn_ends)))

    @property
    def pad_id(self) -> int:
        """Id of the token that fills shorter prompts up on their left."""
        return _one(self.tokenizer.pad_token_id)

    @property
    def never(self) -> Never:
        """Ids that are never predicted: the mask token's, and those of rows that stand for no token."""
        return _never(self.tokenizer)

    @property
    def kernel(self) -> str | None:
        """The model's attention kernel, by transformers' name; None: its code does not say."""
        return self.model.config._attn_implementation

    @property
    def quantised(self) -> bool:
        """Whether the weights are kept in fewer bits than they are computed in."""
        return getattr(self.model, "quantization_method", None) is not None

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of prompts, in the format in which the model is asked.

        Raises:
            ConfigError: see `PromptFormat.render`.
        """
        return self.format.encode(self.tokenizer, prompts)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of one row of token ids."""
        return self.tokenizer.batch_decode([list(ids)], skip_special_tokens=skip_special_tokens)[0]

    def move_to(self, place: torch.device | torch.dtype) -> None:
        """Bring the weights to a device, or to another dtype, in place."""
        self.model.to(place)  # pyright: ignore[reportArgumentType]  transformers wraps it in what takes no self

    def denoiser(self, model: nn.Module | None = None, compiled: bool = False) -> ModelDenoiser | UnpaddedDenoiser:
        """A denoiser on this policy's model, or on another one of the same kind (wrapped, or the reference).

        ``compiled``: its layers are run by torch.compile, and no part of them can be exchanged.
        """
        model = self.model if model is None else model
        stores = self.calling.stores
        build = RuledModelDenoiser if stores is None else partial(CachedModelDenoiser, stores=stores)
        denoiser = build(
            model,
            self.mask_id,
            head=vocabulary_head(model) if self.calling.head else None,
            logit_shift=self.logit_shift,
            embedding=token_embedding(model),
            last_feed_forward=None if compiled else last_feed_forward(model),
            attention=self.calling.attention or _inner(model).config._attn_implementation,
            block_length=self.block_length,
            prompt_in_blocks=self.prompt_in_blocks,
            pairwise=self.calling.padding == "pairwise",
            counts_padding=self.calling.counts_padding,
            never=self.never,
        )
        return UnpaddedDenoiser(denoiser) if self.calling.padding == "none" else denoiser


# what was found out about a tokenizer, and for which size and mask: 150,000 tokens take a while to look through
_NEVER: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[tuple[int, int], Never]] = WeakKeyDictionary()


def _never(tokenizer: PreTrainedTokenizerBase) -> Never:
    """All ids but those of tokens that may be predicted."""
    key = len(tokenizer), _one(tokenizer.mask_token_id)
    if _NEVER.get(tokenizer, (None,))[0] != key:
        _NEVER[tokenizer] = key, all_but(set(tokenizer.get_vocab().values()) - {key[1]})
    return _NEVER[tokenizer][1]


def _one(token_id: object) -> int:
    """The id of a special token; of a policy that was loaded, each has one (`trainers.models.special_tokens`)."""
    assert isinstance(token_id, int), f"expected the id of a token, got {token_id!r}"
    return token_id


def vocabulary_head(model: nn.Module) -> nn.Module | None:
    """The module whose output is the logits, beneath any wrapper (DDP, LoRA); None if the model does not say, or says
    that it is the embedding, which is run on tokens."""
    head = _inner(model).get_output_embeddings()
    return None if head is token_embedding(model) else head


def token_embedding(model: nn.Module) -> nn.Module | None:
    """The module that embeds the tokens, beneath any wrapper."""
    return _inner(model).get_input_embeddings()


def embedding_rows(model: PreTrainedModel) -> int:
    """How many tokens the model's embedding has a row for; the tokenizer may know fewer, or more."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return weight.size(0)


def last_feed_forward(model: nn.Module) -> nn.Module | None:
    """The feed-forward module of the last layer, where it is called as in Llama and its relatives."""
    inner = _inner(model)
    layers = getattr(inner.get_decoder(), "layers", None) if hasattr(inner, "get_decoder") else None
    return getattr(layers[-1], "mlp", None) if layers else None


def _inner(model: nn.Module) -> PreTrainedModel:
    """The model beneath DDP or DeepSpeed, whose engine has a config of its own."""
    return extract_model_from_parallel(model)
