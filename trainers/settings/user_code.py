"""Python files of the user's: a task, or the reward functions in one, imported with one clear error."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from trainers.settings.options import ConfigError

PLACE = "FILE.py:FUNCTION or package.module:FUNCTION"

_IMPORTED: dict[tuple[Path, bytes], ModuleType] = {}  # by file and content


def import_file(path: str, option: str) -> ModuleType:
    """A Python file as a module; what lies beside it can be imported by it.

    Args:
        path: of the file.
        option: the setting that names it, for errors.

    Raises:
        ConfigError: it is no Python file, or importing it fails.
    """
    file = Path(path)
    if file.suffix != ".py":
        raise ConfigError(f"{option}={path!r}: expected a Python file, such as my_task.py")
    if not file.is_file():
        raise ConfigError(f"{option}={path!r}: expected a Python file; there is none of that name")
    name, written = f"user_file_{file.stem}", (file.resolve(), file.read_bytes())
    if written in _IMPORTED:  # several functions of one file, whose import may take long
        return _IMPORTED[written]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    _reach(file.resolve().parent)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _failed(option, path, error) from error
    _IMPORTED[written] = module
    return module


def function_at(place: str, option: str) -> Callable[..., Any]:
    """The function that "FILE.py:FUNCTION" or "package.module:FUNCTION" names.

    Raises:
        ConfigError: there is none, or importing its module fails.
    """
    where, _, name = (place + ":" if place.endswith(".py") else place).rpartition(":")
    if not where:
        raise ConfigError(f"{option}={place!r}: expected {PLACE}")
    module = import_file(where, option) if where.endswith(".py") else _import_module(where, option, place)
    found = getattr(module, name, None)
    if found is None:
        own = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
        raise ConfigError(
            f"{option}={place!r}: expected {where}:FUNCTION; its functions are {', '.join(own) or 'none'}"
        )
    if not callable(found) or inspect.isclass(found):
        raise ConfigError(f"{option}={place!r}: {name} is {type(found).__name__} {found!r}; expected a function")
    return found


def _import_module(name: str, option: str, place: str) -> ModuleType:
    _reach(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            raise ConfigError(f"{option}={place!r}: there is no module {error.name}; expected {PLACE}") from error
        raise _failed(option, place, error) from error
    except (Exception, SystemExit) as error:
        raise _failed(option, place, error) from error


def _reach(folder: Path) -> None:
    """What lies in a folder can be imported, unless something of that name was there before."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _failed(option: str, place: str, error: BaseException) -> ConfigError:
    return ConfigError(f"{option}={place!r}: importing it raised {type(error).__name__}: {error}")
