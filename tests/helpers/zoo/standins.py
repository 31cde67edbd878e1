"""Directories of stand-ins, in transformers' format: a config, weights, a tokenizer, and code where a family brings
its own along."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from trainers.models import remote_code
from trainers.models.loading import load_policy
from trainers.models.policy import Policy
from trainers.settings.model import ModelArguments
from zoo import templates

CODE = Path(__file__).parent / "code"
CONFIGS = {  # classes of the configs that come with code
    "llada": "LLaDAConfig",
    "llada_moe": "LLaDAConfig",
    "llada2_moe": "LLaDA2MoeConfig",
    "dream": "DreamConfig",
    "sdar": "SDARConfig",
    "a2d": "A2DQwen3Config",
    "blockwise": "BlockwiseConfig",
}
BLOCK = 7  # tokens of a block of the block-causal ones
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # states matter, so that a wrong state shows in the logits
}


@dataclass(frozen=True)
class StandIn:
    """One kind of checkpoint.

    Attributes:
        family: what it is to be taken for.
        mask: text of its mask token.
        code, architecture: of those that bring code along.
        auto: keys of its config's auto_map that lead to the model.
        vocabulary_key: what its config calls the size of the vocabulary.
        native: config and model class of those that transformers has.
        named: whether its tokenizer calls the mask token so.
        configured: whether its config does.
        padded: whether its config names the padding token.
        config: further entries of its config.
        generation: its settings of generation, where it has some of its own.
        options: what a user has to say of it.
    """

    family: str
    mask: str
    code: str = ""
    architecture: str = ""
    auto: tuple[str, ...] = ("AutoModel", "AutoModelForCausalLM")
    vocabulary_key: str = "vocab_size"
    native: tuple[type, type] | None = None
    named: bool = False
    configured: bool = True
    padded: bool = True
    generation: dict | None = None
    config: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)

    @property
    def block_length(self) -> int | None:
        return BLOCK if self.family in ("llada2", "sdar") else None

    @property
    def arguments(self) -> dict:
        """Of a user who loads it."""
        return self.options | ({"trust_remote_code": True} if self.code else {})


def _llada(**changes):
    given = {"mask": "<|mdm_mask|>", "code": "llada", "architecture": "LLaDAModelLM", "configured": False}
    return StandIn("llada", vocabulary_key="embedding_size", **(given | changes))


def _native(*classes, **changes):
    given = {"mask": "<|fim_pad|>", "configured": False, "options": {"mask_token": "<|fim_pad|>"}}
    return StandIn("autoregressive", native=classes, **(given | changes))


STAND_INS: dict[str, StandIn] = {
    "llada": _llada(),
    "llada_configured": _llada(configured=True, config={"weight_tying": True}),
    "llada_moe": StandIn(
        "llada_moe",
        "<|mask|>",
        "llada_moe",
        "LLaDAMoEModelLM",
        configured=False,
        config={"tie_word_embeddings": False},
    ),
    "llada2": StandIn("llada2", "<|mask|>", "llada2_moe", "LLaDA2MoeModelLM", configured=False),
    "llada2_tied": StandIn(
        "llada2", "<|other|>", "llada2_moe", "LLaDA2MoeModelLM", config={"tie_word_embeddings": True}
    ),
    "dream": StandIn(
        "dream", "<|mask|>", "dream", "DreamModel", auto=("AutoModel",), named=True, generation={"steps": 16}
    ),
    "sdar": StandIn("sdar", "<|MASK|>", "sdar", "SDARForCausalLM", padded=False, config={"block_size": BLOCK}),
    "a2d": StandIn(
        "autoregressive",
        "<|mask|>",
        "a2d",
        "A2DQwen3LMHeadModel",
        auto=("AutoModel", "AutoModelForMaskedLM"),
        named=True,
        config=SHAPE | {"head_dim": 16},
    ),
    "llama": _native(LlamaConfig, LlamaForCausalLM),
    "qwen2": _native(Qwen2Config, Qwen2ForCausalLM, config={"tie_word_embeddings": True}),
    "qwen3": _native(Qwen3Config, Qwen3ForCausalLM, config={"head_dim": 16}),
    "bert": StandIn("masked_lm", "[MASK]", native=(BertConfig, BertForMaskedLM), named=True, configured=False),
    "modernbert": StandIn(
        "masked_lm",
        "[MASK]",
        native=(ModernBertConfig, ModernBertForMaskedLM),
        named=True,
        configured=False,
        config={"global_attn_every_n_layers": 1, "cls_token_id": 0, "sep_token_id": 0, "bos_token_id": None},
    ),
}

# Built as the others are, and loaded by nobody: a model that is not what it is taken for.
IMPOSTORS = {
    "blockwise": StandIn(
        "autoregressive", "<|mask|>", "blockwise", "BlockwiseForCausalLM", named=True, config=SHAPE | {"bd_size": 32}
    ),
}


def build(
    name: str,
    tokenizer: PreTrainedTokenizerFast,
    directory: Path,
    seed: int = 0,
    template: str | None = None,
    **config,
):
    """Write a stand-in with the vocabulary of another tokenizer; ``template``: a name of `templates.TEMPLATES`, in
    which it is to be asked; ``config``: entries of its config to change.

    Returns:
        The directory, and the model that was written, in eval mode.
    """
    kind = (STAND_INS | IMPOSTORS)[name]
    own = build_tokenizer(kind, tokenizer)
    if template is not None:
        own = templates.templated(own, template)
    own.save_pretrained(directory)
    ends = {"eos_token_id": own.eos_token_id or own.sep_token_id}
    ends |= {"pad_token_id": own.pad_token_id} if kind.padded else {}
    settings = {kind.vocabulary_key: len(own), **ends, **kind.config, **config}
    if kind.configured:
        settings["mask_token_id"] = own.convert_tokens_to_ids(kind.mask)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _own_model(kind, directory, settings) if kind.code else _native_model(kind, settings)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=SHAPE["initializer_range"])
    _speak_up(model, own)
    if kind.code:  # as transformers 4 would have written it
        weights = {key: value.detach().contiguous() for key, value in model.named_parameters()}
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    else:
        model.save_pretrained(directory)
    return directory, model.eval()


def load(name: str, directory: Path, **more) -> Policy:
    """What a user gets who says of a stand-in what has to be said, and ``more``."""
    kind = (STAND_INS | IMPOSTORS)[name]
    arguments = ModelArguments(model_name_or_path=str(directory), **kind.arguments, **more)
    return load_policy(arguments, block_length=kind.block_length)


def _own_config(kind: StandIn, settings: dict) -> dict:
    module = f"modeling_{kind.code}.{kind.architecture}"
    auto_map = {"AutoConfig": f"configuration_{kind.code}.{CONFIGS[kind.code]}", **dict.fromkeys(kind.auto, module)}
    model_type = {"llada_moe": "llada", "dream": "Dream", "a2d": "a2d-qwen3"}.get(kind.code, kind.code)
    return {"model_type": model_type, "architectures": [kind.architecture], "auto_map": auto_map, **settings}


def _own_model(kind: StandIn, directory: Path, settings: dict):
    for file in (CODE / "parts.py", *CODE.glob(f"*_{kind.code}.py")):
        shutil.copy(file, directory / file.name)
    if kind.generation is not None:
        (directory / "generation_config.json").write_text(json.dumps(kind.generation))
    (directory / "config.json").write_text(json.dumps(_own_config(kind, settings)))
    with remote_code.hosted():
        config = AutoConfig.from_pretrained(directory, trust_remote_code=True)
        remote_code.adapt(str(directory), config, AutoModel)
        return get_class_from_dynamic_module(config.auto_map["AutoModel"], str(directory))(config)


def _native_model(kind: StandIn, settings: dict):
    config_class, model_class = kind.native
    return model_class(config_class(**(SHAPE | settings)))


def _speak_up(model, tokenizer) -> None:
    """Louder rows for the end and for digits: random completions then have early ends, and digits to reward."""
    head = model.get_output_embeddings()
    digits = tokenizer.convert_tokens_to_ids(list("0123456789"))
    with torch.no_grad():
        head.weight[tokenizer.eos_token_id or tokenizer.sep_token_id] *= 3
        head.weight[digits] *= 2


def build_tokenizer(kind: StandIn, tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same pieces, with the special tokens of a family: its mask is one of them, whatever it is called."""
    pieces = json.loads(tokenizer.backend_tokenizer.to_str())
    renamed = {"[MASK]": kind.mask}
    if kind.family == "masked_lm":
        renamed["[EOS]"] = "[SEP]"
    for token in pieces["added_tokens"]:
        token["content"] = renamed.get(token["content"], token["content"])
    pieces["model"]["vocab"] = {renamed.get(text, text): i for text, i in pieces["model"]["vocab"].items()}
    backend = Tokenizer.from_str(json.dumps(pieces))
    names = {"pad_token": "[PAD]"} | ({"mask_token": kind.mask} if kind.named else {})
    if kind.family == "masked_lm":  # texts in [CLS] ... [SEP], no end of a sequence
        names |= {"sep_token": "[SEP]", "cls_token": "[CLS]"}
        backend.add_special_tokens(["[CLS]"])
        ends = [(text, backend.token_to_id(text)) for text in ("[CLS]", "[SEP]")]
        backend.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    else:
        names["eos_token"] = "[EOS]"
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)
