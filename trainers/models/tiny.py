"""The embedded model: a bidirectional Llama of about a million parameters with a byte-level BPE of a few hundred
tokens, shipped with warm-start weights (`assets/tiny`). Single digits are single tokens and any text can be spelled,
so real GSM8K goes through it unchanged."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

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
    settings: dict[str, Any] = TINY_SHAPE | {
        "vocab_size": len(tokenizer),
        "is_causal": False,
        "use_cache": False,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    return LlamaForCausalLM(LlamaConfig(**settings))
