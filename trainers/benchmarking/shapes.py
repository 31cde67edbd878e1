"""The models that are measured: published shapes with random weights, or a saved model, at any vocabulary size.

Speed does not depend on what the weights say, but two things do: where a text ends, and whether two generators write
the same one. For those a small trained model is measured, and `widen` gives it a large vocabulary: the new rows repeat
the padding token's, which training has taught it never to write, so its text stays and the cost is the large one's.
"""

import json
from dataclasses import dataclass
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from trainers.models.loading import load_policy
from trainers.models.policy import Policy
from trainers.models.tiny import build_tokenizer
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError

NOISE = 1e-4  # standard deviation on the repeated rows, relative to the row's: no two logits tie


@dataclass(frozen=True)
class Shape:
    """A decoder of Llama's kind; sizes under the names of `LlamaConfig`."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    tie_word_embeddings: bool = False


SHAPES = {
    "tiny": Shape(192, 576, 4, 6, 6, 1024),
    "135M": Shape(576, 1536, 30, 9, 3, 48 * 1024, True),  # SmolLM2-135M, Allal et al. 2025, 2502.02737
    "1B": Shape(2048, 8192, 16, 32, 8, 1002 * 128, True),  # Llama 3.2 1B
    "LLaDA-8B": Shape(4096, 12288, 32, 32, 32, 988 * 128),  # Nie et al. 2025, 2502.09992, table 5
}


def random_policy(
    shape: Shape,
    vocabulary: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Policy:
    """Fresh weights, made where they are to live; draws from the global random state, as transformers does.

    Args:
        shape: one of `SHAPES`.
        vocabulary: rows of embedding and head; None: the shape's own.
        tokenizer: of the model's texts; None: one that knows single bytes, for the ids of the special tokens.
        dtype, device: of the weights.

    Raises:
        ConfigError: a vocabulary that is smaller than the tokenizer's.
    """
    tokenizer = build_tokenizer(()) if tokenizer is None else tokenizer
    vocabulary = shape.vocab_size if vocabulary is None else vocabulary
    _check_vocabulary(vocabulary, len(tokenizer), "the tokenizer's")
    config = LlamaConfig(
        **(vars(shape) | {"vocab_size": vocabulary, "is_causal": False}),
        max_position_embeddings=4096,
        use_cache=False,
        pad_token_id=cast(int, tokenizer.pad_token_id),
        eos_token_id=cast(int, tokenizer.eos_token_id),
        bos_token_id=None,
    )
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return Policy(model.eval(), filled(tokenizer, vocabulary))


def filled(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> PreTrainedTokenizerBase:
    """The tokenizer with a token for every row of a model: a row without one would never be predicted."""
    assert isinstance(tokenizer, PreTrainedTokenizerFast)  # built here or by a task
    pieces = json.loads(tokenizer.backend_tokenizer.to_str())
    pieces["model"]["vocab"] |= {f"[row {row}]": row for row in range(len(tokenizer), vocabulary)}
    backend = Tokenizer.from_str(json.dumps(pieces))
    side = tokenizer.padding_side
    return type(tokenizer)(tokenizer_object=backend, padding_side=side, **tokenizer.special_tokens_map)


def saved_policy(
    path: str,
    vocabulary: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Policy:
    """A saved model, widened to a larger vocabulary if one is given.

    Raises:
        ConfigError: nothing loadable is there, or a vocabulary that is smaller than the model's.
    """
    policy = load_policy(ModelArguments(model_name_or_path=path))
    if vocabulary is not None:
        _check_vocabulary(vocabulary, policy.model.config.vocab_size, "the model's")
        widen(policy.model, vocabulary, cast(int, policy.tokenizer.pad_token_id))
    # transformers wraps `to` in a way that hides from a type checker that it is a method
    cast(torch.nn.Module, policy.model).to(device=device, dtype=dtype).eval()
    return policy


def vocabulary_tables(model: PreTrainedModel) -> list[torch.Tensor]:
    """The weights of embedding and vocabulary head, (V, d) each; a single one where they are tied."""
    modules: tuple[Any, Any] = model.get_input_embeddings(), model.get_output_embeddings()
    return list(dict.fromkeys(module.weight for module in modules))


@torch.no_grad()
def widen(model: PreTrainedModel, vocabulary: int, row: int) -> None:
    """Give embedding and head ``vocabulary`` rows; the new ones repeat ``row``, but for noise that breaks ties."""
    old = model.config.vocab_size
    model.resize_token_embeddings(vocabulary, mean_resizing=False)
    for weight in vocabulary_tables(model):
        repeated = weight[row].expand(vocabulary - old, -1)
        spread = repeated.square().mean().sqrt()
        weight[old:] = repeated + NOISE * spread * torch.randn_like(repeated)


def _check_vocabulary(vocabulary: int, least: int, whose: str) -> None:
    if vocabulary < least:
        raise ConfigError(f"--vocabulary {vocabulary}: expected at least {whose} {least}")
