"""What goes wrong while a checkpoint is loaded, in one line that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from safetensors import SafetensorError
from transformers import PretrainedConfig

from trainers.models import remote_code
from trainers.models.embedded import EMBEDDED
from trainers.models.native.records import Unsupported
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError

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


@contextmanager
def explained(arguments: ModelArguments, config: PretrainedConfig | None = None) -> Iterator[None]:
    """What goes wrong while a checkpoint is loaded, as a ConfigError of one line; ``config``: its own, once known."""
    name, trusted = arguments.model_name_or_path, arguments.trust_remote_code
    try:
        with remote_code.hosted() if trusted else nullcontext():
            yield
    except Unsupported as error:
        raise ConfigError(f"model.name_or_path={name!r}, model.code={arguments.code}: {error}") from error
    except Exception as error:
        own_code = trusted and (remote_code.own_frame(error) or getattr(config, "auto_map", None))
        failed = remote_code.failure(error, getattr(config, "transformers_version", None)) if own_code else ""
        if failed:
            raise ConfigError(f"model.name_or_path={name!r}: {failed}") from error
        if not isinstance(error, LOADING_ERRORS):
            raise
        reason = " ".join(str(error).split())[:300]
        if not trusted and "trust_remote_code" in str(error):
            raise ConfigError(
                f"model.trust_remote_code=False: {name!r} brings code of its own along, which is run if you set true"
            ) from error
        raise ConfigError(
            f"model.name_or_path={name!r} cannot be loaded; expected {', '.join(map(repr, EMBEDDED))}, a directory "
            f"with config.json, tokenizer and safetensors, or a reachable hub id: {reason}"
        ) from error
