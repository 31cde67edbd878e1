"""LoRA adapters (Hu et al. 2021, 2106.09685): fresh ones, and directories of trained ones.

A directory holds what was trained and what is needed to read it: adapter_config.json, which names the base model by a
name that is good on any machine, adapter_model.safetensors, the tokenizer, and config.json with what was settled for
the policy (`trainers.models.families`). `model.name_or_path` may name such a directory. With `model.use_peft` the
adapter is trained on, as it is; without, it is merged into its base model, which from then on is a model like any
other.

The reference policy of a KL penalty is what the run started from: the base model for a fresh adapter, and for one that
is trained on a frozen copy of it (TRL keeps it under the name `REFERENCE`), not its base.
"""

import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from trainers.models.experts import attention_linears, has_experts
from trainers.models.families import SETTLED
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError, refusal

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
REFERENCE = "ref"  # TRL's name of the frozen copy
READ = (SETTLED, "mask_token_id")  # of config.json: what stands above the base model's own
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
# option of section model -> (where a LoraConfig has it, what a fresh adapter takes if it is unset)
SHAPE: dict[str, tuple[str, Any]] = {
    "lora_r": ("r", 16),
    "lora_alpha": ("lora_alpha", 32),
    "lora_dropout": ("lora_dropout", 0.0),
    "lora_target_modules": ("target_modules", "all-linear"),  # of a mixture of experts: `attention_linears`
}


def lora_config(arguments: ModelArguments, model: PreTrainedModel | PeftModel | None = None) -> LoraConfig | None:
    """The adapter that ``model`` is to get; None for full fine-tuning, and where it has one to train on."""
    if not arguments.use_peft or isinstance(model, PeftModel):
        return None
    shape = {key: getattr(arguments, option) for option, (key, _) in SHAPE.items()}
    fresh = {key: default if shape[key] is None else shape[key] for key, default in SHAPE.values()}
    if shape["target_modules"] is None and model is not None and has_experts(model.config):
        # a layer has hundreds of experts, whose adapters would outweigh the rest, and each sees few tokens
        fresh["target_modules"] = attention_linears(model)
    return LoraConfig(**fresh, task_type=task_type(model))


def task_type(model: PreTrainedModel | None) -> str | None:
    """Of peft's wrappers, the one for causal models where it fits: it wants a model that can generate by itself, and
    hands on arguments that code which a checkpoint brings along may not take. None: the plain one."""
    if model is None:
        return "CAUSAL_LM"
    own_code = getattr(model.config, "auto_map", None)
    return "CAUSAL_LM" if hasattr(model, "prepare_inputs_for_generation") and not own_code else None


@dataclass(frozen=True)
class Adapter:
    """What a directory says of its adapter.

    Attributes:
        directory: where it is.
        config: rank, scale and modules.
        base: name of the model that it belongs to.
        saved: the base model's config as it was saved beside the adapter; empty, where another tool wrote it.
    """

    directory: Path
    config: LoraConfig
    base: str
    saved: dict[str, Any]

    @property
    def tokenizer(self) -> Path | None:
        """Where its tokenizer is, if it came with one."""
        return self.directory if any((self.directory / name).is_file() for name in TOKENIZER) else None

    def base_arguments(self, arguments: ModelArguments) -> ModelArguments:
        """The settings with which the base model is loaded."""
        return replace(arguments, model_name_or_path=self.base, adapter_base=None)

    def settle(self, config: PretrainedConfig) -> None:
        """Let the base model's config say what was settled for the adapter's policy.

        Raises:
            ConfigError: it is the config of a model of another shape.
        """
        own = config.to_dict()
        for key, value in self.saved.items():
            # sizes and counts; an adapter on the first layers would fit a deeper model
            if type(value) is int and not key.endswith("_id") and own.get(key, value) != value:
                raise ConfigError(
                    f"its config has {key}={own[key]}, the adapter does not fit: it was trained on {value}"
                )
        for key in READ:
            if self.saved.get(key) is not None:
                setattr(config, key, self.saved[key])

    def applied_to(self, model: PreTrainedModel, arguments: ModelArguments) -> PreTrainedModel | PeftModel:
        """The base model with the adapter: to be trained with `model.use_peft`, merged without.

        Raises:
            ConfigError: it does not fit, is damaged, or is asked to be trained in another shape than its own.
        """
        name = arguments.model_name_or_path
        if arguments.use_peft:
            self._check_shape(arguments)
        # peft looks up the base model's config when it saves: where it is, and not under the name that it has anywhere
        self.config.base_model_name_or_path = model.name_or_path
        self.config.task_type = task_type(model)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is missing is an error below
                adapted = PeftModel.from_pretrained(
                    model, self.directory, config=self.config, is_trainable=arguments.use_peft
                )
        except (RuntimeError, ValueError, KeyError, AttributeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(
                f"model.name_or_path={name!r}: its adapter does not fit {self.base!r}: {reason}"
            ) from error
        self._check_complete(adapted, name)
        if not arguments.use_peft:
            return _merged(adapted, name)
        if isinstance(adapted.get_output_embeddings(), BaseTunerLayer):
            raise ConfigError(
                f"model.use_peft=True: the adapter {name!r} changes the vocabulary head, which TRL does not train; "
                "set false, and train all weights or evaluate"
            )
        return adapted

    def _check_shape(self, arguments: ModelArguments) -> None:
        for option, (key, _) in SHAPE.items():
            wanted, own = getattr(arguments, option), getattr(self.config, key)
            own = sorted(own) if isinstance(own, set) else own
            if wanted is not None and (sorted(wanted) if isinstance(wanted, list) else wanted) != own:
                name = arguments.model_name_or_path
                raise refusal(
                    arguments, option, f"expected {own}, or unset: the adapter {name!r} is trained on as it is"
                )

    def _check_complete(self, model: PeftModel, name: str) -> None:
        """Every weight of the file has a place, and every weight of the adapter is in the file."""
        with safe_open(self.directory / WEIGHTS, framework="pt") as stored:
            there = set(stored.keys())
        expected = set(get_peft_model_state_dict(model, save_embedding_layers=False))
        # layers of the base model may have been saved along with it
        odd = sorted(expected - there) + sorted(key for key in there - expected if "lora_" in key)
        if odd:
            raise ConfigError(
                f"model.name_or_path={name!r}: its adapter does not fit {self.base!r}: {len(odd)} weights are on one "
                f"side only, as {odd[0]}"
            )


def read_adapter(arguments: ModelArguments) -> Adapter | None:
    """The adapter that `model.name_or_path` names; None if it is no directory of an adapter.

    Raises:
        ConfigError: a file is missing or damaged, it is no LoRA, or nothing says what its base model is.
    """
    name = arguments.model_name_or_path
    directory = Path(name)
    if not (directory / CONFIG).is_file():
        if arguments.adapter_base is not None:
            raise refusal(arguments, "adapter_base", f"only for the directory of an adapter; {name!r} has no {CONFIG}")
        return None

    def damaged(file: str, error: object) -> ConfigError:
        return ConfigError(f"model.name_or_path={name!r}: {file} is damaged: {' '.join(str(error).split())[:200]}")

    if not (directory / WEIGHTS).is_file():
        raise ConfigError(f"model.name_or_path={name!r}: {CONFIG} is there, but {WEIGHTS} is missing")
    try:
        with safe_open(directory / WEIGHTS, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise damaged(WEIGHTS, error) from error
    try:
        config = PeftConfig.from_pretrained(str(directory))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged(CONFIG, error) from error
    if not isinstance(config, LoraConfig):
        raise ConfigError(f"model.name_or_path={name!r}: expected a LoRA adapter, {CONFIG} says {config.peft_type}")
    base = arguments.adapter_base or config.base_model_name_or_path
    if base is None:
        raise ConfigError(f"model.name_or_path={name!r}: {CONFIG} names no base model; set model.adapter_base")
    if (Path(base) / CONFIG).is_file():
        raise ConfigError(
            f"model.name_or_path={name!r}: its base model {base!r} is the directory of an adapter itself; export that "
            "(scripts/export.py), and name the result in model.adapter_base"
        )
    try:
        saved = _saved_config(directory / "config.json")
    except ValueError as error:
        raise damaged("config.json", error) from error
    return Adapter(directory, config, base, saved)


def _saved_config(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not isinstance(found, dict):
        raise ValueError(f"expected the entries of a config, got {type(found).__name__}")
    return found


def _merged(model: PeftModel, name: str) -> PreTrainedModel:
    try:
        return model.merge_and_unload(safe_merge=True)
    except ValueError as error:  # a weight that is not finite
        raise ConfigError(f"model.name_or_path={name!r}: its adapter cannot be merged: {error}") from error


def complete_adapter(directory: Path, model: PreTrainedModel, base: str) -> None:
    """Make a saved adapter readable by itself: its base model by name, and what was settled for the policy.

    Args:
        directory: where peft saved it.
        model: the base model, or the one around it.
        base: name of the base model that is good on any machine; empty: as it was saved.
    """
    model.config.save_pretrained(directory)
    for path in [directory / CONFIG, *directory.glob(f"*/{CONFIG}")] if base else []:
        saved = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": base}
        path.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def match_reference(model: nn.Module) -> None:
    """Bring the reference's frozen copy of an adapter to the dtype of the adapter, which TRL rounds in 4-bit models:
    only then is the ratio between them 1 at the start."""
    weights = dict(model.named_parameters())
    for name, weight in weights.items():
        copied = weights.get(name.replace(".default.", f".{REFERENCE}."))
        if copied is not None and copied is not weight:
            copied.data = copied.data.to(weight.dtype)
