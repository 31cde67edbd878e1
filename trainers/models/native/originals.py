"""A natively read model under the names of its original again: what loads where the original loads.

Weights get their original names; config.json, code and tokenizer files are the original's own, taken from where it
lies. An adapter gets the names of the original's modules.
"""

import json
import shutil
from pathlib import Path
from typing import Any, cast

from huggingface_hub import snapshot_download
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PretrainedConfig, PreTrainedModel
from transformers.core_model_loading import WeightRenaming

from trainers.models.families import SETTLED
from trainers.models.native.configs import CARRIED, DTYPES, native_config
from trainers.models.native.known import NATIVES
from trainers.models.native.reading import read_entries
from trainers.models.native.records import Entries, Native, Unsupported
from trainers.models.native.weights import original_names
from trainers.models.policy import Policy

FILES = ("*.py", "*.json", "*.txt", "*.model", "*.jinja")  # of an original, beside its weights
WEIGHTS = ("*.index.json", "adapter_config.json", "provenance.json")
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of the names in an adapter's file


def original_record(policy: Policy) -> Native:
    """The record that a policy's model was read by, or could have been.

    Raises:
        Unsupported: there is none: it has no other names than its own.
    """
    model = policy.model.get_base_model() if isinstance(policy.model, PeftModel) else policy.model
    for record in NATIVES.values():
        if record.family == policy.family and record.model is type(model):
            return record
    raise Unsupported(f"a {type(model).__name__} of family {policy.family} has no other original")


def save_original(model: PreTrainedModel, record: Native, source: str, directory: Path) -> None:
    """Write weights, config and files as the original has them.

    Args:
        model: of transformers' class.
        record: of its kind.
        source: directory or hub id of the original, or of any checkpoint with its config, code and tokenizer.
        directory: made if it is not there.

    Raises:
        Unsupported: the original there is of another shape.
        OSError: it is not there, or cannot be reached.
    """
    entries = _original_config(model, record, source)
    with original_names(record, model):
        model.save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    _copy_files(source, directory, entries)


def save_original_adapter(model: PeftModel, record: Native, source: str, directory: Path) -> None:
    """Write a LoRA adapter that the original takes: names of its modules, and its config and files beside.

    Args:
        model: the adapter on a model of transformers' class.
        record, source, directory: see `save_original`.

    Raises:
        Unsupported: the original there is of another shape, or has no module that an adapted one stands for.
    """
    base = cast(PreTrainedModel, model.get_base_model())
    entries = _original_config(base, record, source)
    # not the table of tokens: where it has more rows than the original has tokens, peft takes it for trained
    model.save_pretrained(str(directory), save_embedding_layers=False)
    config = json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    odd = [key for key in ("target_parameters", "rank_pattern", "alpha_pattern", "modules_to_save") if config.get(key)]
    if odd:
        raise Unsupported(f"its adapter has {odd[0]}={config[odd[0]]!r}, which has no counterpart in the original")
    with safe_open(directory / ADAPTER_WEIGHTS, framework="pt") as stored:
        keys: list[str] = stored.keys()
        weights = {_original_key(record, key): stored.get_tensor(key) for key in keys}
    save_file(weights, directory / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    # whole names: the last part of one may be that of another module too
    config["target_modules"] = sorted({key.removeprefix(PREFIX).partition(".lora_")[0] for key in weights})
    config |= {"base_model_name_or_path": source, "task_type": None, "auto_mapping": None, "exclude_modules": None}
    (directory / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    _copy_files(source, directory, entries)


def _original_key(record: Native, key: str) -> str:
    """What the original calls a weight of an adapter."""
    own = key.removeprefix(PREFIX)
    for original, parts in record.fused.items():
        if any(part.removesuffix(".weight") in own for part in parts):
            raise Unsupported(f"its adapter changes {own}, which is a part of {original} in the original: merge it")
    for conversion in record.conversions():
        if isinstance(conversion, WeightRenaming):
            own, found = conversion.reverse_transform().rename_source_key(own)
            if found is not None:
                break
    return PREFIX + own


def _original_config(model: PreTrainedModel, record: Native, source: str) -> Entries:
    """The entries of the original's config.json, with what was settled here."""
    entries = read_entries(source)
    found = (entries.get("architectures") or [None])[0]
    if found != record.architecture:
        raise Unsupported(f"{source!r} is a {found}, expected the original, a {record.architecture}")
    there, here = _shape(native_config(record, entries)), _shape(model.config)
    odd = sorted(name for name in there if there[name] != here.get(name))
    if odd:
        values = f"{odd[0]}={there[odd[0]]!r}, the model {here.get(odd[0])!r}"
        raise Unsupported(f"{source!r} is the original of another model: it has {values}")
    settled = {name: getattr(model.config, name, None) for name in (SETTLED, "mask_token_id")}
    dtype = {name: str(model.dtype).removeprefix("torch.") for name in DTYPES if name in entries}
    return entries | dtype | {name: value for name, value in settled.items() if value is not None}


def _shape(config: PretrainedConfig) -> dict[str, Any]:
    """What makes a model of one kind another one."""
    beside = {*CARRIED, *PretrainedConfig().to_dict(), "attention_dropout", "transformers_version", "model_type"}
    return {name: value for name, value in config.to_dict().items() if name not in beside}


def _copy_files(source: str, directory: Path, entries: Entries) -> None:
    """Code and tokenizer of the original; its config, as it is to be."""
    here = Path(source)
    if not here.is_dir():
        here = Path(snapshot_download(source, allow_patterns=list(FILES)))
    for path in sorted(path for pattern in FILES for path in here.glob(pattern)):
        if not any(path.match(pattern) for pattern in WEIGHTS):
            shutil.copyfile(path, directory / path.name)
    (directory / "config.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
