"""How a named model becomes a policy: weights and tokenizer from files, then `trainers.models.settling`."""

from collections.abc import Iterable
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from trainers.models import remote_code
from trainers.models.adapters import Adapter, read_adapter
from trainers.models.embedded import place_of
from trainers.models.explaining import explained
from trainers.models.families import AUTOREGRESSIVE, FAMILIES, MASKED_LM, nature_of
from trainers.models.native.reading import Reading, natively, read_tokenizer
from trainers.models.policy import Policy
from trainers.models.settling import Loaded, Wishes, recognise, settled
from trainers.models.special_tokens import name_mask_token
from trainers.models.tiny import TINY, build_tiny, build_tokenizer
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError
from trainers.settings.task import AUTO

# what transformers 5 writes where a tokenizer is its tokenizer.json and nothing else
GENERIC_TOKENIZER = "TokenizersBackend"


def load_policy(
    arguments: ModelArguments,
    corpus: Iterable[str] = (),
    block_length: int | None = None,
    chat_template: str = AUTO,
    system_prompt: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Policy:
    """Load or build the named model.

    Args:
        arguments: the model section.
        corpus: texts to train the tokenizer on; read only for fresh weights of `tiny`.
        block_length: of the sampler, tokens; where the model is block-causal, its own.
        chat_template, system_prompt: of the task section.
        tokenizer: in place of the checkpoint's own; changed in place.

    Raises:
        ConfigError: nothing loadable is there, a file is damaged, tokenizer or model lack what a diffusion model
            needs, or the model is not what it is said to be.
    """
    name = arguments.model_name_or_path
    adapter = None if arguments.from_scratch else read_adapter(arguments)
    base = arguments if adapter is None else adapter.base_arguments(arguments)
    loaded = _fresh(name, corpus) if arguments.from_scratch else _load_trained(base, adapter, name, tokenizer)
    wishes = Wishes(block_length, chat_template, system_prompt)
    return settled(loaded, arguments, wishes, "" if arguments.from_scratch else base.model_name_or_path, adapter)


# ---- loading -----------------------------------------------------------------------------------------------------


def _fresh(name: str, corpus: Iterable[str]) -> Loaded:
    """Fresh weights of the embedded model, and a tokenizer that was trained on ``corpus``."""
    if name != TINY:
        raise ConfigError(f"model.from_scratch=True: only for model.name_or_path='{TINY}', got {name!r}")
    tokenizer = build_tokenizer(corpus)
    model = build_tiny(tokenizer)
    return Loaded(AUTOREGRESSIVE, nature_of(model.config, FAMILIES[AUTOREGRESSIVE]), tokenizer, model)


def _load_trained(
    base: ModelArguments, adapter: Adapter | None, name: str, tokenizer: PreTrainedTokenizerBase | None
) -> Loaded:
    """A checkpoint; where ``name`` is an adapter's, its base model, and messages say so."""
    if adapter is None:
        return _load_checkpoint(base, None, tokenizer)
    try:
        return _load_checkpoint(base, adapter, tokenizer)
    except ConfigError as error:
        raise ConfigError(
            f"model.name_or_path={name!r}: the base model of this adapter, {adapter.base!r} (model.adapter_base "
            f"sets another): {error}"
        ) from error


def _load_checkpoint(
    arguments: ModelArguments, adapter: Adapter | None, tokenizer: PreTrainedTokenizerBase | None
) -> Loaded:
    """What the files of a model say; of an adapter's base model, as its policy was settled."""
    name = arguments.model_name_or_path
    path = place_of(name)
    with explained(arguments):
        own = natively(path, arguments)
    config = _load(AutoConfig, path, arguments) if own is None else own.config
    if adapter is not None:
        adapter.settle(config)
    family, nature = recognise(config, name, None if own is None else own.record.family)
    if tokenizer is None:
        texts = str(adapter.tokenizer) if adapter is not None and adapter.tokenizer is not None else path
        tokenizer = _load_tokenizer(texts, arguments, own)
    model = _load_model(path, config, arguments, own)
    name_mask_token(tokenizer, model, FAMILIES[family], arguments)
    return Loaded(family, nature, tokenizer, model)


def _load(auto: Any, path: str, arguments: ModelArguments, **kwargs: Any) -> Any:
    """A config, tokenizer or model from a directory or the hub, or one line that says why not."""
    with explained(arguments, kwargs.get("config")):
        return auto.from_pretrained(path, trust_remote_code=arguments.trust_remote_code, **kwargs)


def load_tokenizer(arguments: ModelArguments) -> PreTrainedTokenizerBase:
    """The tokenizer of the named model, as its files have it.

    Raises:
        ConfigError: there is none that can be read.
    """
    path = place_of(arguments.model_name_or_path)
    with explained(arguments):
        own = natively(path, arguments)
    return _load_tokenizer(path, arguments, own)


def _load_tokenizer(path: str, arguments: ModelArguments, own: Reading | None) -> PreTrainedTokenizerBase:
    if own is None:
        # it has no class of its own: transformers would take the one that the kind of the model suggests, whose rules
        # are others, as Qwen's for a Dream that was read natively and saved
        generic = get_tokenizer_config(path).get("tokenizer_class") == GENERIC_TOKENIZER
        return _load(AutoTokenizer, path, arguments, **({"config": PretrainedConfig()} if generic else {}))
    with explained(arguments):
        return read_tokenizer(own.record, path)


def _load_model(
    path: str, config: PretrainedConfig, arguments: ModelArguments, own: Reading | None
) -> PreTrainedModel:
    """Weights on the CPU; quantised ones on this process' GPU."""
    dtype = arguments.dtype if arguments.dtype == "auto" else getattr(torch, arguments.dtype)
    options: dict[str, Any] = {"config": config, "dtype": dtype, "attn_implementation": arguments.attn_implementation}
    if arguments.safetensors_only:
        options["use_safetensors"] = True
    if arguments.load_in_4bit:  # NF4 with double quantisation, as in QLoRA (2305.14314, section 3)
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        options["device_map"] = {"": torch.cuda.current_device()}
    if own is not None:
        with explained(arguments):
            return own.model(path, **options)
    auto = auto_class(config)
    with explained(arguments, config):
        own_code = arguments.trust_remote_code and remote_code.adapt(path, config, auto)
    model = _load(auto, path, arguments, **options)
    if own_code:
        with explained(arguments, config):
            remote_code.restore(model)
    return model


def auto_class(config: PretrainedConfig) -> type:
    """The class of transformers that finds the model: the one that its own code registers, else by architecture."""
    own = getattr(config, "auto_map", None) or {}
    if (config.architectures or [""])[0].endswith(MASKED_LM):
        return AutoModelForMaskedLM
    return AutoModel if "AutoModel" in own and "AutoModelForCausalLM" not in own else AutoModelForCausalLM
