"""Tokenizer files as transformers 4 wrote them, and as public checkpoints have them: what version 5 writes, 4 cannot
read."""

import json
import shutil
from pathlib import Path

from transformers import PreTrainedTokenizerFast

CODE = Path(__file__).parent / "code"
NAMES = ("bos_token", "eos_token", "pad_token", "mask_token")


def write_fast(tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """tokenizer.json, and a config that does not name the mask token (LLaDA's habit)."""
    _clear(directory)
    (directory / "tokenizer.json").write_text(tokenizer.backend_tokenizer.to_str(pretty=False))
    _write_config(tokenizer, directory, {"tokenizer_class": "PreTrainedTokenizerFast"}, NAMES[:-1])


def write_own(tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """vocab.json, merges.txt and code of its own (Dream's habit)."""
    _clear(directory)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (directory / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n")
    added = {token.content: place for place, token in tokenizer.added_tokens_decoder.items()}
    (directory / "added_tokens.json").write_text(json.dumps(added))
    shutil.copy(CODE / "tokenization_dream.py", directory / "tokenization_dream.py")
    own = {
        "tokenizer_class": "DreamTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
    }
    _write_config(tokenizer, directory, own, NAMES)


def _clear(directory: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (directory / name).unlink(missing_ok=True)


def _write_config(tokenizer: PreTrainedTokenizerFast, directory: Path, own: dict, names: tuple[str, ...]) -> None:
    decoder = {
        str(place): {
            "content": token.content,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for place, token in tokenizer.added_tokens_decoder.items()
    }
    named = {name: text for name in names if (text := getattr(tokenizer, name)) is not None}
    entries = {"added_tokens_decoder": decoder, "clean_up_tokenization_spaces": False, **named, **own}
    if tokenizer.chat_template is not None:
        entries["chat_template"] = tokenizer.chat_template
    (directory / "tokenizer_config.json").write_text(json.dumps(entries))
    (directory / "special_tokens_map.json").write_text(json.dumps(named))
