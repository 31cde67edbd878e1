"""Which config makes a model that another one starts from, and that is not there yet."""

from pathlib import Path

import yaml

from trainers.settings.options import ConfigError

CONFIGS = Path("configs")


def check_made(name: str, config: Path) -> None:
    """Say how a missing model is made, if that is what a known config does.

    Args:
        name: model.name_or_path.
        config: the file that names it; the configs beside it are looked at, and those below `CONFIGS`.

    Raises:
        ConfigError: nothing is there, and a config trains into the directory above it.
    """
    if Path(name).exists():
        return
    for path in sorted({*config.parent.glob("*.yaml"), *CONFIGS.rglob("*.yaml")}):
        output = _output_of(path)
        if output is not None and output in Path(name).parents:
            raise ConfigError(
                f"model.name_or_path={name!r} is not there yet: it is what {path.name} trains; run first: "
                f"python scripts/train.py {path}"
            )


def _output_of(config: Path) -> Path | None:
    """Where a config trains to; None for a file that is none."""
    try:
        found = yaml.safe_load(config.read_text(encoding="utf-8"))
        output = found["training"]["output_dir"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return None
    return Path(output) if isinstance(output, str) else None
