"""Options as their dataclasses declare them, read from the source by `ast`, without running it.

The dataclasses inherit from those of TRL and transformers, whose import takes seconds, and torch's with it. A command
line can be checked before that: names, defaults, help texts and types stand in the source as they are. What is read
here is what `dataclasses.fields` says (`tests/trainers/settings/test_declarations.py` compares all of it).

    Declared    one option: its name, type, default, help and known values
    declared    all options of a class, those of its bases among them
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Unknown:
    """A value that only running the code would tell, as it is written."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Declared:
    """One option of a dataclass.

    Attributes:
        name: the field's.
        types: the alternatives of its type, in the order in which they are written: names of Python's own types
            (``int``, ``dict``, ``None``), a list's item as `List`, allowed values as `Values`.
        default: its value, or `Unknown`.
        metadata: what the declaration says beside: help, section, key.
        known: names that it may take, from a dict or tuple of ours; None: any.
    """

    name: str
    types: tuple[Any, ...]
    default: Any
    metadata: dict[str, Any] = field(default_factory=dict)
    known: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Values:
    """A type that consists of a few values: an enum's, or a Literal's."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class List:
    """A list of so many items of one type."""

    item: Any


@dataclass(frozen=True)
class Place:
    """Where something stands: a module's name and the statement or expression in it."""

    module: str
    node: Any


def declared(module: str, name: str) -> dict[str, Declared]:
    """Field name -> option, of a dataclass and its bases; a class that comes first among the bases has the last word.

    Args:
        module: dotted name.
        name: of the class.
    """
    place = _find(module, name)
    if place is None or not isinstance(place.node, ast.ClassDef):
        return {}
    found: dict[str, Declared] = {}
    for base in reversed(place.node.bases):
        if isinstance(base, ast.Name):
            found |= declared(place.module, base.id)
    for statement in place.node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            one = _field(place.module, statement, statement.target.id)
            if one is not None:
                found[one.name] = one
    return found


def names_in(module: str, name: str) -> tuple[str, ...]:
    """The names in a tuple, or the keys of a dict, that a module defines or imports.

    Raises:
        ValueError: it has none of that name, or one whose names only running it would tell.
    """
    found = _names(module, ast.Name(name))
    if found is None:
        raise ValueError(f"{module}.{name}: expected a tuple of names, or a dict with names as keys")
    return found


def _field(module: str, statement: ast.AnnAssign, name: str) -> Declared | None:
    """An option from ``name: type = value``; None for what is no argument of the constructor."""
    types = tuple(_types(module, statement.annotation))
    if "ClassVar" in types:
        return None
    plain = Declared(name, types, _value(module, statement.value) if statement.value else Unknown("required"))
    call = statement.value
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        return plain
    given = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    if call.func.id == "option":
        positions = ("section", "default", "help", "key", "known")[: len(call.args)]
        return _own(plain, module, dict(zip(positions, call.args, strict=True)) | given)
    if call.func.id != "field":
        return plain
    if "init" in given and _value(module, given["init"]) is False:
        return None
    metadata = _value(module, given["metadata"]) if "metadata" in given else {}
    return replace(plain, default=_default(module, given), metadata=metadata)


def _own(plain: Declared, module: str, given: dict[str, ast.expr]) -> Declared:
    """From a call of `trainers.settings.options.option`."""
    known = given.pop("known", None)
    default = _value(module, given.pop("default"))
    metadata = {key: _value(module, node) for key, node in given.items()}
    return replace(plain, default=default, metadata=metadata, known=None if known is None else _names(module, known))


def _default(module: str, given: dict[str, ast.expr]) -> Any:
    if "default" in given:
        return _value(module, given["default"])
    factory = given.get("default_factory")
    if isinstance(factory, ast.Lambda):
        return _value(module, factory.body)
    if isinstance(factory, ast.Name) and factory.id in ("list", "dict"):
        return [] if factory.id == "list" else {}
    return Unknown("required")


# ---- expressions ----------------------------------------------------------------------------------------------------


def _value(module: str, node: ast.expr) -> Any:
    """What an expression is worth: a literal, or the name of one."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        pass
    if isinstance(node, ast.Dict):  # metadata, of which a part may have to be run
        pairs = zip(node.keys, node.values, strict=True)
        return {_value(module, key): _value(module, value) for key, value in pairs if key}
    if isinstance(node, ast.Name):
        place = _find(module, node.id)
        if place is not None and isinstance(place.node, ast.Assign | ast.AnnAssign) and place.node.value is not None:
            return _value(place.module, place.node.value)
    return Unknown(ast.unparse(node))


def _types(module: str, node: ast.expr) -> Iterator[Any]:
    """The alternatives of an annotation."""
    match node:
        case ast.Constant(value=None):
            yield "None"
        case ast.Constant(value=str(text)):
            yield from _types(module, ast.parse(text, mode="eval").body)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            yield from _types(module, left)
            yield from _types(module, right)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=values):
            items = values.elts if isinstance(values, ast.Tuple) else [values]
            yield Values(tuple(_value(module, item) for item in items))
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            yield List(next(_types(module, item)))
        case ast.Subscript(value=ast.Name(id=name)):
            yield name
        case ast.Name(id=name):
            values = _enum(module, name)
            yield name if values is None else values
        case _:
            yield ast.unparse(node)


def _enum(module: str, name: str) -> Values | None:
    """The values of an enum's members; None: the name is none's."""
    place = _find(module, name)
    if place is None or not isinstance(place.node, ast.ClassDef):
        return None
    if not any("Enum" in ast.unparse(base) for base in place.node.bases):
        return None
    members = [statement for statement in place.node.body if isinstance(statement, ast.Assign)]
    return Values(tuple(_value(place.module, member.value) for member in members))


def _names(module: str, node: ast.expr) -> tuple[str, ...] | None:
    """The names in a tuple or the keys of a dict, wherever it is written."""
    place = _find(module, node.id) if isinstance(node, ast.Name) else Place(module, node)
    written = place.node if place is not None else None
    if isinstance(written, ast.Assign | ast.AnnAssign):
        written = written.value
    items = written.keys if isinstance(written, ast.Dict) else getattr(written, "elts", None)
    if place is None or items is None:
        return None
    names = tuple(_value(place.module, item) for item in items if item is not None)
    return names if all(isinstance(name, str) for name in names) else None


# ---- modules --------------------------------------------------------------------------------------------------------


@cache
def _find(module: str, name: str) -> Place | None:
    """Where a name that is used in a module is defined, through its imports; None: it is built in, or not to be
    found."""
    place = _scope(module).get(name)
    if place is not None and isinstance(place.node, ast.ImportFrom):
        taken = next(alias.name for alias in place.node.names if name == (alias.asname or alias.name))
        return _find(_absolute(module, place.node), taken)
    return place


@cache
def _scope(module: str) -> dict[str, Place]:
    """Each name of a module -> the statement that defines or imports it; a definition goes before an import."""
    path = _path(module)
    source = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
    imports = [node for node in ast.walk(source) if isinstance(node, ast.ImportFrom)]
    found = {alias.asname or alias.name: Place(module, node) for node in reversed(imports) for alias in node.names}
    for statement in source.body:
        match statement:
            case ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = Place(module, statement)
            case ast.Assign(targets=[ast.Name(id=name)]):
                found[name] = Place(module, statement)
    return found


def _absolute(module: str, node: ast.ImportFrom) -> str:
    """The module that an import takes from."""
    if not node.level:
        return node.module or ""
    parts = module.split(".") if _path(module).name == "__init__.py" else module.split(".")[:-1]
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, node.module] if node.module else parts)


def _path(module: str) -> Path:
    """The file of a module, which is not imported, and neither are the packages that it is in."""
    top, *parts = module.split(".")
    spec = find_spec(top)
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        return Path(spec.origin if spec and spec.origin else "")
    path = Path(folders[0]).joinpath(*parts)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
