"""A model by its config alone: the sizes that cost, and how many weights it has, counted on a model without storage.

What a checkpoint's own code calls its sizes is translated (`twins`): no remote code is run to plan.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from trainers.benchmarking.roofline import Costs
from trainers.benchmarking.shapes import SHAPES, vocabulary_tables
from trainers.models.adapters import lora_config
from trainers.models.embedded import EMBEDDED
from trainers.models.families import AUTOREGRESSIVE, MASKED_LM, Nature
from trainers.models.native.reading import read_entries
from trainers.models.smollm2 import SMOLLM2
from trainers.models.tiny import TINY, TINY_ASSETS
from trainers.planning.published import PUBLISHED
from trainers.planning.twins import config_of
from trainers.settings.hub_names import HUB_IDS, hub_id
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError

RANDOM = "2.3m"
# names without a file -> their sizes; "2.3m" is the benchmark's tiny, which is not the embedded model of that name
KNOWN: dict[str, Callable[[], PretrainedConfig]] = {
    RANDOM: lambda: LlamaConfig(**vars(SHAPES["tiny"])),
    SMOLLM2: lambda: LlamaConfig(**vars(SHAPES["135M"])),
    "1b": lambda: LlamaConfig(**vars(SHAPES["1B"])),
}


@dataclass(frozen=True)
class Model:
    """What of a model costs.

    Attributes:
        name: as it was asked for.
        config: of transformers' architecture with the same matrices.
        weights: how many it has.
        adapter: weights of a LoRA adapter on it.
        nature: how it is to be read, as its files or its family say.
        largest: weights of its largest part that is gathered at once where parameters are sharded: a layer, or the
            embedding and the head.
        ignores_padding: whether the code that runs it is known to ignore attention masks, so that rows of every length
            are run apart.
    """

    name: str
    config: PretrainedConfig
    weights: int
    adapter: int
    nature: Nature
    largest: int
    ignores_padding: bool = False

    @property
    def attention(self) -> str:
        """bidirectional or block_causal."""
        return self.nature.attention

    def costs(self, itemsize: int) -> Costs:
        """Arithmetic and traffic of its parts, with numbers of ``itemsize`` bytes."""
        return Costs(self.config, itemsize)


def find_model(name: str, arguments: ModelArguments) -> Model:
    """A model by a known name, a hub id, a directory, or its config.json.

    Args:
        name: one of `KNOWN`, 'tiny', a short name or hub id, a directory with config.json, or that file.
        arguments: the shape of the adapter, and whose code runs the model.

    Raises:
        ConfigError: nothing readable is there, or an architecture whose cost is not known.
    """
    if name.lower() in KNOWN:
        config, family, nature = KNOWN[name.lower()](), AUTOREGRESSIVE, Nature()
    else:
        config, family, nature = _read(hub_id(name), name)
    with torch.device("meta"):
        model = _empty(config, name)
        weights = _count(model)
        layers = [_count(module) for module in model.base_model.modules() if _is_layer(module)]
        largest = max(*layers, sum(table.numel() for table in vocabulary_tables(model)))
        _check_costs(model, name)
        adapter_config = lora_config(_adapted(arguments), model)
        assert adapter_config is not None  # an adapter is asked for, and this model has none
        adapted = get_peft_model(model, adapter_config)
        adapter = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    ignores_padding = arguments.code == "remote" and family == "llada"  # docs/real_models.md
    return Model(name, config, weights, adapter, nature, largest, ignores_padding)


# ---- configs -----------------------------------------------------------------------------------------------------


def _read(place: str, name: str) -> tuple[PretrainedConfig, str, Nature]:
    """The sizes, the family, and who sees whom."""
    known = ", ".join((TINY, *KNOWN, *HUB_IDS))
    expected = f"expected one of {known}, a hub id (owner/name), a directory with config.json, or such a file"
    path = Path(TINY_ASSETS if place == TINY else place)
    file = path / "config.json" if path.is_dir() else path
    asks_hub = "/" in place and not path.exists()
    try:
        entries = PUBLISHED.get(place) or (read_entries(place) if asks_hub else _of_file(file))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:300]
        raise ConfigError(f"MODEL {name!r}: {expected}; {reason}") from error
    except ValueError as error:
        raise ConfigError(f"MODEL {name!r}: {file} is damaged: {error}") from error
    if not isinstance(entries, dict) or not entries.get("architectures"):
        raise ConfigError(f"MODEL {name!r}: its config names no architecture; {expected}")
    try:
        return config_of(entries, place if asks_hub else str(file))
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"MODEL {name!r}: {' '.join(str(error).split())[:300]}") from error


def _of_file(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


# ---- weights -----------------------------------------------------------------------------------------------------


def _empty(config: PretrainedConfig, name: str) -> PreTrainedModel:
    masked = (config.architectures or [""])[0].endswith(MASKED_LM)
    try:
        return (AutoModelForMaskedLM if masked else AutoModelForCausalLM).from_config(config)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ConfigError(f"MODEL {name!r}: {' '.join(str(error).split())[:300]}") from error


def _count(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _is_layer(module: torch.nn.Module) -> bool:
    """One of the model's layers: an attention and a feed-forward module in one."""
    return type(module).__name__.endswith(("DecoderLayer", "EncoderLayer", "Block", "BertLayer"))


def _check_costs(model: PreTrainedModel, name: str) -> None:
    """The cost model knows every matrix: those of the model are those that it counts."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    tables |= {id(table) for table in vocabulary_tables(model)}
    found = sum(weight.numel() for weight in model.parameters() if weight.ndim > 1 and id(weight) not in tables)
    counted = Costs(model.config, 1).matrix_weights
    if found != counted:
        kind = type(model).__name__
        raise ConfigError(
            f"MODEL {name!r}: the matrices of {kind} have {found} weights, of which the cost model knows {counted}; "
            "expected a decoder of Llama's kind, with or without experts, BERT or GPT-2"
        )


def _adapted(arguments: ModelArguments) -> ModelArguments:
    """The same with an adapter."""
    shape = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
    return ModelArguments(use_peft=True, **{name: getattr(arguments, name) for name in shape})


def place_of(model: str) -> str:
    """What scripts/train.py is to load: a shape without weights is somewhere on the user's machine."""
    return "DIRECTORY" if model.lower() in KNOWN and model not in EMBEDDED else model
