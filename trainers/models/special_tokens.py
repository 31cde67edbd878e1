"""Special tokens of a policy: the one that hides, the one that ends, the one that pads; and prompts without an end."""

from tokenizers.processors import TemplateProcessing
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from trainers.models.families import Family
from trainers.models.policy import embedding_rows
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError

HINTS = 20  # tokens that a message lists at most


def name_mask_token(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, family: Family, arguments: ModelArguments
) -> None:
    """Let tokenizer and config agree on the mask token.

    Raises:
        ConfigError: none is known, two are, or the one that is found has another use or no row in the embedding.
    """
    name, mask_id = arguments.model_name_or_path, _find_mask_id(tokenizer, model.config, family, arguments)
    text, rows = tokenizer.convert_ids_to_tokens(mask_id), embedding_rows(model)
    if text is None or mask_id >= rows:
        raise ConfigError(
            f"model.name_or_path={name!r}: its mask token has the id {mask_id}, but its tokenizer has "
            f"{len(tokenizer)} tokens and its embedding {rows} rows"
        )
    for other in ("eos_token", "bos_token", "pad_token", "unk_token"):
        if getattr(tokenizer, other) == text:
            raise ConfigError(
                f"model.mask_token={text!r}: it is the {other} of {name!r} already; expected a token with no other use"
            )
    tokenizer.add_special_tokens({"mask_token": text})
    model.config.mask_token_id = mask_id


def _find_mask_id(
    tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, family: Family, arguments: ModelArguments
) -> int:
    """As the user says, else tokenizer and config, else the family."""
    name, vocabulary = arguments.model_name_or_path, tokenizer.get_vocab()
    unused = ", ".join(_hints(tokenizer))
    if arguments.mask_token is not None:
        if arguments.mask_token not in vocabulary:
            raise ConfigError(
                f"model.mask_token={arguments.mask_token!r}: not a token of {name!r}; its special tokens: {unused}"
            )
        return vocabulary[arguments.mask_token]
    own, configured = tokenizer.mask_token_id, getattr(config, "mask_token_id", None)
    assert own is None or isinstance(own, int)
    if own is not None and configured is not None and own != configured:
        raise ConfigError(
            f"model.name_or_path={name!r}: its tokenizer calls {tokenizer.mask_token!r} (id {own}) the mask token, "
            f"its config {tokenizer.convert_ids_to_tokens(configured)!r} (id {configured}); choose by model.mask_token"
        )
    named = [vocabulary[text] for text in family.mask_tokens if text in vocabulary]
    for found in (own, configured, *named, family.mask_id):
        if found is not None:
            return found
    raise ConfigError(
        f"model.name_or_path={name!r}: its tokenizer has no mask_token, which a diffusion model needs; set "
        f"model.mask_token to a special token that no text uses, of: {unused}"
    )


def _hints(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Texts of added tokens, those that are called a mask first."""
    texts = _texts(tokenizer, sorted(tokenizer.added_tokens_decoder))
    return sorted(texts, key=lambda text: "mask" not in text.lower())[:HINTS]


def complete_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """An end, padding on the left, and prompts that end where their text does.

    Args:
        tokenizer: changed in place.
        name: of the model, for messages.

    Raises:
        ConfigError: there is no end token, or what is put behind every text cannot be turned off.
    """
    if tokenizer.eos_token is None and tokenizer.sep_token is not None:  # BERT ends a text so
        tokenizer.eos_token = tokenizer.sep_token
    if tokenizer.eos_token is None:
        raise ConfigError(
            f"model.name_or_path={name!r}: its tokenizer has no eos_token, which a diffusion model needs"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    _leave_ends_open(tokenizer, name)


def _leave_ends_open(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """A completion goes on where its prompt stops: what is put before a text stays, what is put behind it goes."""
    whole, text = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    before = next(i for i in range(len(whole)) if whole[i : i + len(text)] == text)
    if len(whole) == before + len(text):
        return
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ConfigError(
            f"model.name_or_path={name!r}: its tokenizer puts {_texts(tokenizer, whole)[-1]!r} behind "
            "every text, which cannot be turned off; expected a tokenizer with tokenizer.json"
        )
    first = list(zip(_texts(tokenizer, whole[:before]), whole[:before], strict=True))
    single = " ".join([*(text for text, _ in first), "$A"])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=first)


def _texts(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    """The text of each token."""
    found = tokenizer.convert_ids_to_tokens(ids)
    return [found] if isinstance(found, str) else found
