"""Configs by name: those that come with the package, wherever it is installed; a file of the user's goes first."""

import difflib
from functools import cache
from pathlib import Path

from trainers.settings.options import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"
SUFFIXES = (".yaml", ".yml", ".json")
RECIPES, INSIDE = "recipes", "config"  # recipes/NAME/config.yaml goes by the name of its folder
CLOSE = 3  # so many names are suggested


@cache
def shipped() -> dict[str, Path]:
    """Name -> file, of every config of the package: its place under `configs`, without the ending."""
    files = sorted(path for suffix in SUFFIXES for path in CONFIGS.rglob(f"*{suffix}"))
    return {_plain(path.relative_to(CONFIGS).as_posix()): path for path in files}


def find_config(text: str) -> Path:
    """The file that a command line or a config means.

    Args:
        text: a path, with its ending or without, or a folder with config.yaml in it; if there is none such, the name
            of a config of the package, which `configs/` and its ending may surround.

    Raises:
        ConfigError: there is neither; with the names that are close.
    """
    found = find_or_none(text)
    if found is not None:
        return found
    if Path(text).is_dir():
        raise ConfigError(f"config file {text}: a folder without {INSIDE}.yaml in it")
    close = difflib.get_close_matches(_plain(text), shipped(), n=CLOSE)
    advice = (
        f"did you mean {' or '.join(close)}?" if close else "`trajectory-nelbo configs` lists those of the package"
    )
    raise ConfigError(f"config file {text}: No such file or directory; {advice}")


def find_or_none(text: str) -> Path | None:
    """`find_config`; None where there is no such file and no such name."""
    for path in (Path(text), *(Path(text + suffix) for suffix in SUFFIXES), Path(text) / f"{INSIDE}.yaml"):
        if path.is_file():
            return path
    name = _plain(text)
    return shipped().get(name) or shipped().get(f"{RECIPES}/{name}")


def names_a_config(text: str) -> bool:
    """Whether a word means a config where a model's name may stand too; a model's folder or file is none."""
    if Path(text).exists() and not text.endswith(SUFFIXES[:2]):
        return (Path(text) / f"{INSIDE}.yaml").is_file()
    return text.endswith(SUFFIXES[:2]) or find_or_none(text) is not None


def usable(text: str) -> str:
    """A path as a launcher or library can read it: as it is where there is such a file, else that of the package."""
    found = find_or_none(text)
    return text if found is None else str(found)


def _plain(text: str) -> str:
    """A name without the folder of all configs, without its ending, and of a recipe without the file in it."""
    name = text.strip("/").removeprefix("./").removeprefix("configs/")
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return name.removesuffix(f"/{INSIDE}")
