"""How a named model becomes a policy: weights, tokenizer, and what the denoiser needs to know about them.

`tiny` is a bidirectional Llama of about a million parameters with a byte-level BPE of a few hundred tokens, shipped
with warm-start weights (`assets/tiny`); single digits are single tokens and any text can be spelled, so real GSM8K
goes through it unchanged. Anything else is a local directory or a hub checkpoint in transformers' format whose
tokenizer has a mask token.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from trainers.caching import RULES, CachedModelDenoiser
from trainers.config import ConfigError, ModelArguments

TINY = "tiny"
TINY_ASSETS = Path(__file__).parent / "assets" / TINY
TINY_VOCABULARY = 1024  # upper limit; the embedded task's words need fewer
# 4 layers of width 128: the largest body with which several hundred GRPO steps fit into minutes on two cores.
TINY_SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
}
# One digit a token; a word with its leading space; prompt and answer marks; calculator brackets; everything else by
# itself.
TINY_PIECES = Regex(r"\nAnswer:|\n#### |<<|>>|\d| ?\p{L}+|[^\s\p{L}\d]|\s")


@dataclass(frozen=True)
class Policy:
    """A model with all that is needed to denoise with it.

    Attributes:
        model, tokenizer: weights and text.
        logit_shift: see `ModelDenoiser`.
        block_length: tokens of a block where the model is block-causal; None: bidirectional.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    logit_shift: bool = False
    block_length: int | None = None

    @property
    def mask_id(self) -> int:
        """Id of the mask token."""
        return self.tokenizer.mask_token_id

    def denoiser(self, model: nn.Module | None = None, compiled: bool = False) -> CachedModelDenoiser:
        """A denoiser on this policy's model, or on another one of the same kind (wrapped, or the reference).

        ``compiled``: its layers are run by torch.compile, and no part of them can be exchanged.
        """
        model = self.model if model is None else model
        return CachedModelDenoiser(
            model,
            self.mask_id,
            head=vocabulary_head(model),
            logit_shift=self.logit_shift,
            embedding=token_embedding(model),
            last_feed_forward=None if compiled else last_feed_forward(model),
            attention=_inner(model).config._attn_implementation,
            block_length=self.block_length,
        )


def vocabulary_head(model: nn.Module) -> nn.Module | None:
    """The module whose output is the logits, beneath any wrapper (DDP, LoRA); None if the model does not say."""
    return _inner(model).get_output_embeddings()


def token_embedding(model: nn.Module) -> nn.Module | None:
    """The module that embeds the tokens, beneath any wrapper."""
    return _inner(model).get_input_embeddings()


def last_feed_forward(model: nn.Module) -> nn.Module | None:
    """The feed-forward module of the last layer, where it is called as in Llama and its relatives."""
    layers = getattr(_inner(model).get_decoder(), "layers", None)
    return getattr(layers[-1], "mlp", None) if layers else None


def _inner(model: nn.Module) -> PreTrainedModel:
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def load_policy(arguments: ModelArguments, corpus: Iterable[str] = (), block_length: int | None = None) -> Policy:
    """Load or build the named model.

    Args:
        arguments: the model section.
        corpus: texts to train the tokenizer on; read only for fresh weights of `tiny`.
        block_length: of the sampler, tokens; where ``arguments.attention`` is block_causal, the model's own.

    Raises:
        ConfigError: nothing loadable is there, a file is damaged, the tokenizer has no mask or EOS token, or the model
            cannot be block-causal as asked.
    """
    name = arguments.model_name_or_path
    if arguments.from_scratch:
        if name != TINY:
            raise ConfigError(f"model.from_scratch=True: only for model.name_or_path='{TINY}', got {name!r}")
        tokenizer = build_tokenizer(corpus)
        model = build_tiny(tokenizer)
    else:
        tokenizer, model = _load(str(TINY_ASSETS) if name == TINY else name, arguments)
    for token in ("mask_token", "eos_token"):
        if getattr(tokenizer, token) is None:
            raise ConfigError(
                f"model.name_or_path={name!r}: its tokenizer has no {token}, which a diffusion model needs"
            )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    if model.generation_config is None:  # TRL writes to it
        model.generation_config = GenerationConfig()
    if arguments.dtype != "auto":  # the checkpoint's own
        model = model.to(getattr(torch, arguments.dtype))
    if arguments.attention == "bidirectional":
        return Policy(model, tokenizer)
    if block_length is None:
        raise ConfigError("model.attention='block_causal': needs generation.block_length, the tokens of a block")
    kernel = model.config._attn_implementation
    if kernel not in RULES:
        raise ConfigError(
            f"model.attn_implementation={kernel!r}: expected {' or '.join(RULES)} for model.attention=block_causal"
        )
    return Policy(model, tokenizer, block_length=block_length)


def _load(path: str, arguments: ModelArguments) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Tokenizer and model from a directory or the hub; weights from safetensors only."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=arguments.trust_remote_code)
        model = AutoModelForCausalLM.from_pretrained(
            path,
            trust_remote_code=arguments.trust_remote_code,
            attn_implementation=arguments.attn_implementation,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError, SafetensorError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"model.name_or_path={arguments.model_name_or_path!r} cannot be loaded; expected '{TINY}', a directory "
            f"with config.json, tokenizer and safetensors, or a reachable hub id: {reason}"
        ) from error
    return tokenizer, model


def build_tokenizer(corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on ``corpus``: frequent words are one token, single digits too, any text
    round-trips."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(TINY_PIECES, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = {"pad_token": "[PAD]", "eos_token": "[EOS]", "mask_token": "[MASK]"}
    trainer = BpeTrainer(
        vocab_size=TINY_VOCABULARY,
        special_tokens=list(specials.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **specials)


def build_tiny(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """Fresh weights of the tiny bidirectional transformer; draws from the global random state, as transformers
    does."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        is_causal=False,
        use_cache=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        **TINY_SHAPE,
    )
    return LlamaForCausalLM(config)


def lora_config(arguments: ModelArguments) -> LoraConfig | None:
    """The adapter to train, or None for full fine-tuning."""
    if not arguments.use_peft:
        return None
    return LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=arguments.lora_target_modules or "all-linear",
        task_type="CAUSAL_LM",
    )
