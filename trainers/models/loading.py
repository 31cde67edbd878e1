"""How a named model becomes a policy: weights, tokenizer, and how both are to be read.

What a checkpoint is comes from its family (`trainers.models.families`) and its own files, is overridden by the user's
options, and is then seen by running it (`trainers.models.probes`). The result is written into the config, so that what
is saved is loaded as it was trained.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trainers.models import remote_code, smollm2
from trainers.models.adapters import Adapter, read_adapter
from trainers.models.caching import RULES
from trainers.models.families import AUTOREGRESSIVE, FAMILIES, MASKED_LM, SETTLED, Family, Nature, family_of, nature_of
from trainers.models.policy import Policy
from trainers.models.probes import probed
from trainers.models.tiny import TINY, TINY_ASSETS, build_tiny, build_tokenizer
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError

# names that stand for something on this machine -> where it is
EMBEDDED = {TINY: lambda: TINY_ASSETS, smollm2.SMOLLM2: smollm2.checkpoint}
# what from_pretrained raises for files that are missing or damaged, and for code that does not run here
LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ImportError,
    RuntimeError,
    SyntaxError,
    SafetensorError,
)


def load_policy(arguments: ModelArguments, corpus: Iterable[str] = (), block_length: int | None = None) -> Policy:
    """Load or build the named model.

    Args:
        arguments: the model section.
        corpus: texts to train the tokenizer on; read only for fresh weights of `tiny`.
        block_length: of the sampler, tokens; where the model is block-causal, its own.

    Raises:
        ConfigError: nothing loadable is there, a file is damaged, tokenizer or model lack what a diffusion model
            needs, or the model is not what it is said to be.
    """
    name = arguments.model_name_or_path
    adapter = None if arguments.from_scratch else read_adapter(arguments)
    base = arguments if adapter is None else adapter.base_arguments(arguments)
    if arguments.from_scratch:
        if name != TINY:
            raise ConfigError(f"model.from_scratch=True: only for model.name_or_path='{TINY}', got {name!r}")
        tokenizer = build_tokenizer(corpus)
        model = build_tiny(tokenizer)
        family, nature = AUTOREGRESSIVE, nature_of(model.config, FAMILIES[AUTOREGRESSIVE])
    elif adapter is None:
        family, nature, tokenizer, model = _load_trained(arguments)
    else:
        try:
            family, nature, tokenizer, model = _load_trained(base, adapter)
        except ConfigError as error:
            raise ConfigError(
                f"model.name_or_path={name!r}: the base model of this adapter, {adapter.base!r} (model.adapter_base "
                f"sets another): {error}"
            ) from error
    nature = _as_told(nature, model, arguments, block_length)
    _complete_tokenizer(tokenizer, name)
    if getattr(model, "generation_config", None) is None:  # TRL writes to it
        model.generation_config = GenerationConfig()
    setattr(model.config, SETTLED, nature.record())
    policy = Policy(
        model if adapter is None else adapter.applied_to(model, arguments),
        tokenizer,
        logit_shift=nature.logit_shift,
        block_length=nature.block_length,
        prompt_in_blocks=nature.prompt_in_blocks,
        family=family,
        name="" if arguments.from_scratch else base.model_name_or_path,
    )
    return probed(policy, name) if arguments.probe else policy


# ---- loading -----------------------------------------------------------------------------------------------------


def _load_trained(
    arguments: ModelArguments, adapter: Adapter | None = None
) -> tuple[str, Nature, PreTrainedTokenizerBase, PreTrainedModel]:
    """Family, nature, tokenizer and model; of an adapter's base model, as its policy was settled."""
    name = arguments.model_name_or_path
    path = str(EMBEDDED[name]()) if name in EMBEDDED else name
    config = _load(AutoConfig, path, arguments)
    if adapter is not None:
        adapter.settle(config)
    family, nature = _recognise(config, arguments)
    own = adapter.tokenizer if adapter is not None else None
    tokenizer = _load(AutoTokenizer, path if own is None else str(own), arguments)
    model = _load_model(path, config, arguments)
    _name_mask_token(tokenizer, model, FAMILIES[family], arguments)
    return family, nature, tokenizer, model


def _load(auto: Any, path: str, arguments: ModelArguments, **kwargs: Any) -> Any:
    """A config, tokenizer or model from a directory or the hub, or one line that says why not."""
    with _explained(arguments):
        return auto.from_pretrained(path, trust_remote_code=arguments.trust_remote_code, **kwargs)


@contextmanager
def _explained(arguments: ModelArguments) -> Iterator[None]:
    """What goes wrong while a checkpoint is loaded, as a ConfigError of one line."""
    name = arguments.model_name_or_path
    try:
        if arguments.trust_remote_code:
            remote_code.fill_gaps()
        yield
    except LOADING_ERRORS as error:
        reason = " ".join(str(error).split())[:300]
        if not arguments.trust_remote_code and "trust_remote_code" in str(error):
            raise ConfigError(
                f"model.trust_remote_code=False: {name!r} brings code of its own along, which is run if you set true"
            ) from error
        raise ConfigError(
            f"model.name_or_path={name!r} cannot be loaded; expected {', '.join(map(repr, EMBEDDED))}, a directory "
            f"with config.json, tokenizer and safetensors, or a reachable hub id: {reason}"
        ) from error


def _recognise(config: PretrainedConfig, arguments: ModelArguments) -> tuple[str, Nature]:
    """Family and nature of a checkpoint; an autoregressive one is made bidirectional."""
    try:
        family, record = family_of(config)
        nature = nature_of(config, record)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"model.name_or_path={arguments.model_name_or_path!r}: {error}") from error
    if family == AUTOREGRESSIVE:
        config.is_causal = False
    config.use_cache = False
    return family, nature


def _load_model(path: str, config: PretrainedConfig, arguments: ModelArguments) -> PreTrainedModel:
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
    auto = auto_class(config)
    with _explained(arguments):
        own_code = arguments.trust_remote_code and remote_code.adapt(path, config, auto)
    model = _load(auto, path, arguments, **options)
    if own_code:
        remote_code.restore(model)
    return model


def auto_class(config: PretrainedConfig) -> type:
    """The class of transformers that finds the model: the one that its own code registers, else by architecture."""
    own = getattr(config, "auto_map", None) or {}
    if (config.architectures or [""])[0].endswith(MASKED_LM):
        return AutoModelForMaskedLM
    return AutoModel if "AutoModel" in own and "AutoModelForCausalLM" not in own else AutoModelForCausalLM


# ---- nature ------------------------------------------------------------------------------------------------------


def _as_told(nature: Nature, model: PreTrainedModel, arguments: ModelArguments, block_length: int | None) -> Nature:
    """With what the user's options say in place of what the checkpoint says."""
    if arguments.logit_shift is not None:
        nature = replace(nature, logit_shift=arguments.logit_shift)
    if (arguments.attention or nature.attention) == "bidirectional":
        return replace(nature, attention="bidirectional", prompt_in_blocks=False, block_length=None)
    if block_length is None:
        named = (getattr(model.config, key, None) for key in ("block_length", "block_size"))
        said = nature.block_length or next(filter(None, named), None)
        raise ConfigError(
            "model.attention='block_causal': needs generation.block_length, the tokens of a block"
            + (f"; this checkpoint's is {said}" if said else "")
        )
    if nature.block_length not in (None, block_length):
        raise ConfigError(
            f"generation.block_length={block_length}: expected {nature.block_length}, with which "
            f"{arguments.model_name_or_path!r} was trained"
        )
    if nature.logit_shift:
        raise ConfigError(
            "model.logit_shift=true: a block-causal model cannot have shifted logits, the first token of a block "
            "would be predicted from outside of it; set false, or model.attention=bidirectional"
        )
    kernel = model.config._attn_implementation
    if kernel not in RULES:
        raise ConfigError(
            f"model.attn_implementation={kernel!r}: expected {' or '.join(RULES)} for model.attention=block_causal"
        )
    return replace(nature, attention="block_causal", block_length=block_length)


# ---- tokenizer ---------------------------------------------------------------------------------------------------


def _name_mask_token(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, family: Family, arguments: ModelArguments
) -> None:
    """Let tokenizer and config agree on the mask token."""
    name, mask_id = arguments.model_name_or_path, _find_mask_id(tokenizer, model.config, family, arguments)
    text, rows = tokenizer.convert_ids_to_tokens(mask_id), model.get_input_embeddings().weight.size(0)
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
    unused = ", ".join(tokenizer.convert_ids_to_tokens(sorted(tokenizer.added_tokens_decoder)[:20]))
    if arguments.mask_token is not None:
        if arguments.mask_token not in vocabulary:
            raise ConfigError(
                f"model.mask_token={arguments.mask_token!r}: not a token of {name!r}; its special tokens: {unused}"
            )
        return vocabulary[arguments.mask_token]
    own, configured = tokenizer.mask_token_id, getattr(config, "mask_token_id", None)
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


def _complete_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """An end, padding on the left, and prompts that end where their text does."""
    if tokenizer.eos_token is None and tokenizer.sep_token is not None:  # BERT ends a text so
        tokenizer.eos_token = tokenizer.sep_token
    if tokenizer.eos_token is None:
        raise ConfigError(
            f"model.name_or_path={name!r}: its tokenizer has no eos_token, which a diffusion model needs"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    whole, text = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    before = next(i for i in range(len(whole)) if whole[i : i + len(text)] == text)
    if len(whole) == before + len(text):
        return
    if not tokenizer.is_fast:
        raise ConfigError(
            f"model.name_or_path={name!r}: its tokenizer puts {tokenizer.convert_ids_to_tokens(whole)[-1]!r} behind "
            "every text, which cannot be turned off; expected a tokenizer with tokenizer.json"
        )
    # A completion goes on where its prompt stops: what is put before a text stays, what is put behind it goes.
    first = [(tokenizer.convert_ids_to_tokens(token), token) for token in whole[:before]]
    single = " ".join([*(text for text, _ in first), "$A"])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=first)
