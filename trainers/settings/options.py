"""How one option is declared, named in a message and refused: the pieces that the other files here are made of.

A field's metadata says what it means and where it is written in YAML: `section`, and `key` when the YAML key differs
from the field name. A field without a section belongs to `training`: those are TRL's.
"""

from collections.abc import Collection, Iterable
from dataclasses import Field, field, fields
from typing import Any

from trainers.settings.declarations import Declared

# section -> what it holds; the order is the order of --help
SECTIONS = {
    "generation": "how completions are sampled",
    "loss": "the likelihood bound and the noise schedule",
    "masking": "what the forward process hides",
    "scheduled_sampling": "training on states that the model reached itself",
    "model": "the denoiser and its LoRA adapter",
    "task": "dataset, sizes and rewards",
    "preferences": "the pairs that trainer dpo learns from",
    "training": "every other option of the trainer (TRL's)",
}


class ConfigError(ValueError):
    """A setting that cannot be used. The message is one line: key, value, what is allowed."""


def option(
    section: str,
    default: Any,
    help: str,
    key: str | None = None,
    known: Collection[str] | None = None,
    alias: str | None = None,
) -> Any:
    """A dataclass field with its place in YAML, its meaning, for names the known ones, and another key it may have."""
    metadata: dict[str, Any] = {"help": help, "section": section}
    if key is not None:
        metadata["key"] = key
    if known is not None:
        metadata["known"] = known
    if alias is not None:
        metadata["alias"] = alias
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def dotted(option: Field | Declared) -> str:
    """The YAML name of a field: `section.key`."""
    return f"{option.metadata.get('section', 'training')}.{option.metadata.get('key', option.name)}"


def _declared(args: Any, name: str) -> Field:
    return next(f for f in fields(args) if f.name == name)


def refusal(args: Any, name: str, reason: str) -> ConfigError:
    """The error that names an option, its value and the reason."""
    return ConfigError(f"{dotted(_declared(args, name))}={getattr(args, name)!r}: {reason}")


def require(args: Any, name: str, holds: bool, expected: str) -> None:
    """Raise ConfigError unless ``holds``."""
    if not holds:
        raise refusal(args, name, f"expected {expected}")


def only_with(args: Any, names: Iterable[str], holds: bool, needs: str) -> None:
    """Raise ConfigError for an option that was set, but is ignored unless ``holds``."""
    for name in names:
        if not holds and getattr(args, name) != _declared(args, name).default:
            raise refusal(args, name, f"only with {needs}")


def check_known(args: Any) -> None:
    """Raise ConfigError for a name that is not among the known ones of its option."""
    for declared in fields(args):
        known, value = declared.metadata.get("known"), getattr(args, declared.name)
        unset = value is None and declared.default is None
        if known is not None and not unset:
            require(args, declared.name, value in known, f"one of {', '.join(known)}")
