"""Config, tokenizer and model of a checkpoint that is read natively: no code that lies beside the weights is run."""

import warnings
from dataclasses import dataclass
from typing import Any

from transformers import AutoTokenizer, GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from trainers.models.native.configs import native_config
from trainers.models.native.known import NATIVES, record_of
from trainers.models.native.records import Entries, Native, Unsupported
from trainers.models.native.weights import read_weights
from trainers.settings.model import ModelArguments
from trainers.settings.options import refusal


@dataclass(frozen=True)
class Reading:
    """A checkpoint that is read natively.

    Attributes:
        record: of its kind.
        config: transformers'.
    """

    record: Native
    config: PretrainedConfig

    def model(self, path: str, **options: Any) -> PreTrainedModel:
        """The model of a directory or hub id; ``options`` are those of ``from_pretrained``.

        Raises:
            Unsupported: its weights are not those that the record knows.
        """
        model = read_weights(self.record, path, **options)
        # of its original's sampler, which is not there
        model.generation_config = GenerationConfig.from_model_config(model.config)
        return model


def natively(path: str, arguments: ModelArguments) -> Reading | None:
    """How a checkpoint is read into transformers' class; None: `model.code` or its kind say otherwise.

    Raises:
        ConfigError: `model.code` cannot be done.
        Unsupported: it asks for what the class cannot do, and its own code may not be run in its place.
    """
    entries = read_entries(path)
    record, brings_code = record_of(entries), "auto_map" in entries
    if arguments.code == "remote":
        if not brings_code:
            name = arguments.model_name_or_path
            raise refusal(arguments, "code", f"{name!r} brings no code along; expected auto or native")
        return None
    if record is None:
        if arguments.code == "native" and brings_code:
            known = ", ".join(NATIVES)
            found = (entries.get("architectures") or [None])[0]
            raise refusal(arguments, "code", f"the architecture {found} is not read natively, which {known} are")
        return None
    try:
        _tokenizer_class(record, path)
        return Reading(record, native_config(record, entries))
    except Unsupported as error:
        if arguments.code == "native" or not (brings_code and arguments.trust_remote_code):
            raise
        warnings.warn(f"{arguments.model_name_or_path}: read by its own code, not natively: {error}", stacklevel=2)
        return None


def read_entries(path: str) -> Entries:
    """The entries of a config.json, in a directory or on the hub, as they are written."""
    entries = PretrainedConfig.get_config_dict(path)[0]
    entries.pop("_commit_hash", None)  # earlier versions of transformers add it
    return entries


def read_tokenizer(record: Native, path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a directory or hub id, by a class of transformers.

    Raises:
        Unsupported: it comes with code, and no such class is known to do the same.
    """
    own = _tokenizer_class(record, path)
    if own is None:
        # a config without a kind: the class is the tokenizer's to say, not the model's
        return AutoTokenizer.from_pretrained(path, config=PretrainedConfig(), trust_remote_code=False)
    tokenizer = own.from_pretrained(path)
    tokenizer.init_kwargs.pop("auto_map", None)  # it would be saved, and lead to files that are not there
    return tokenizer


def _tokenizer_class(record: Native, path: str) -> type[PreTrainedTokenizerBase] | None:
    """The class that does what a tokenizer's code does; None: it brings none, and names its class."""
    said = get_tokenizer_config(path)
    if "auto_map" not in said:
        return None
    if record.tokenizer is None:
        raise Unsupported(f"its tokenizer {said.get('tokenizer_class')} is in code of its own")
    return record.tokenizer
