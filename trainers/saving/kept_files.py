"""Files that a checkpoint brought along, kept beside weights that were made of it.

A checkpoint with code of its own was written for some version of transformers, often 4. What transformers 5 writes in
place of its tokenizer files says `TokenizersBackend` or lists of special tokens, which version 4 cannot read: the
weights would load there, their tokenizer nowhere. So these files stay as they came, to the byte, save that the mask
token is named where they do not name it. Whatever else was settled for the tokenizer is settled again when it is
loaded (`trainers.models.special_tokens`).
"""

import json
import shutil
from pathlib import Path

from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from trainers.models.policy import Policy

CONFIG = "tokenizer_config.json"
TOKENIZER = (
    CONFIG,
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)
GENERATION = "generation_config.json"


def brings_code(policy: Policy) -> bool:
    """Whether transformers runs code that lies beside the weights."""
    return bool(getattr(policy.model.config, "auto_map", None))


def keep_originals(directory: Path, policy: Policy, adapter: bool = False) -> None:
    """Put the files of a checkpoint with code of its own back into a directory that was saved from it.

    Args:
        directory: with weights, config and tokenizer as transformers saved them.
        policy: what was saved; of another kind of checkpoint nothing is changed.
        adapter: whether the weights are those of an adapter alone, which needs no more than the tokenizer.
    """
    if brings_code(policy):
        put_back(directory, policy, adapter)


def put_back(directory: Path, policy: Policy, adapter: bool = False) -> None:
    """As `keep_originals`, whatever the checkpoint."""
    tokens, model = (_place_of(name) for name in (policy.tokenizer.name_or_path, policy.model.name_or_path))
    if tokens is not None and (tokens / CONFIG).is_file():
        for name in TOKENIZER:
            _exchange(tokens, directory, name)
        for file in tokens.glob("tokenization_*.py"):
            shutil.copyfile(file, directory / file.name)
        _name_mask(directory / CONFIG, policy.tokenizer)
    if model is not None and not adapter:
        for file in model.glob("*.py"):
            shutil.copyfile(file, directory / file.name)
        if (model / GENERATION).is_file():
            _exchange(model, directory, GENERATION)


def _place_of(name: str | None) -> Path | None:
    """Where the files of a model are on this machine, of the hub those that were downloaded; None: nowhere."""
    if not name:  # built here
        return None
    found = cached_file(
        name,
        "config.json",
        local_files_only=True,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found).parent


def _exchange(source: Path, target: Path, name: str) -> None:
    """A file as it came; none where none came."""
    (target / name).unlink(missing_ok=True)
    if (source / name).is_file():
        shutil.copyfile(source / name, target / name)


def _name_mask(path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Plain transformers learns from here which token hides others."""
    entries = json.loads(path.read_text(encoding="utf-8"))
    named = entries.get("mask_token")
    if (named["content"] if isinstance(named, dict) else named) != tokenizer.mask_token:
        entries["mask_token"] = tokenizer.mask_token
        path.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
