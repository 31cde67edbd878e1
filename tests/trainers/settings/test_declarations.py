"""What is read of a dataclass's source is what Python makes of it, for every option of every trainer."""

from dataclasses import MISSING, Field, fields

import pytest

from trainers.settings.config import CONFIGS
from trainers.settings.declarations import Unknown, declared, names_in
from trainers.settings.model import ModelArguments
from trainers.settings.options import dotted
from trainers.settings.parser import COMMON, TRAINERS
from trainers.settings.task import TaskArguments

CLASSES = {place: CONFIGS[trainer] for trainer, place in TRAINERS.items()} | dict(
    zip(COMMON, (ModelArguments, TaskArguments), strict=True)
)
# transformers chooses the optimizer by torch's version, when it is imported
COMPUTED = {"optim": "default_optim"}


def default_of(field: Field) -> object:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def test_the_places_of_the_dataclasses_are_theirs():
    assert {(cls.__module__, cls.__name__) for cls in CLASSES.values()} == set(CLASSES)
    assert set(TRAINERS) == set(CONFIGS)


@pytest.mark.parametrize("place", CLASSES, ids=lambda place: place[1])
def test_options_are_those_of_the_dataclass_in_its_order(place):
    assert list(declared(*place)) == [field.name for field in fields(CLASSES[place]) if field.init]


@pytest.mark.parametrize("place", CLASSES, ids=lambda place: place[1])
def test_defaults_help_places_and_known_names_are_the_dataclass_s(place):
    read = declared(*place)
    for field in (field for field in fields(CLASSES[place]) if field.init):
        option = read[field.name]
        if field.name in COMPUTED:
            assert option.default == Unknown(COMPUTED[field.name])
        else:
            assert (type(option.default), option.default) == (type(default_of(field)), default_of(field)), field.name
        assert option.metadata.get("help") == field.metadata.get("help"), field.name
        assert dotted(option) == dotted(field)
        assert option.known == (tuple(field.metadata["known"]) if "known" in field.metadata else None), field.name


SOURCE = """
import enum
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from {beside} import NAMES, base as Base

DEFAULT = 3


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Own(Base):
    shared: float = 2.5
    number: int = DEFAULT
    listed: list[str] = field(default_factory=lambda: ["a"])
    colour: Colour | str = "red"
    kind: Literal["x", "y"] = "x"
    hidden: int = field(default=0, init=False)
    counted: ClassVar[int] = 7
    computed: int = field(default=1 + DEFAULT, metadata={{"help": "as it is"}})
"""
BESIDE = """
from dataclasses import dataclass

NAMES = {{"one": 1, "two": 2}}


@dataclass
class base:
    first: str | None = None
    shared: int = 1
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of two modules, one of which takes a base class from the other under another name."""
    (tmp_path / "declared_here").mkdir()
    (tmp_path / "declared_here" / "__init__.py").write_text("raise RuntimeError('it was run')")
    (tmp_path / "declared_here" / "own.py").write_text(SOURCE.format(beside=".beside"))
    (tmp_path / "declared_here" / "beside.py").write_text(BESIDE.replace("{{", "{").replace("}}", "}"))
    monkeypatch.syspath_prepend(tmp_path)
    return "declared_here.own"


def test_bases_imports_constants_and_enums_are_followed_without_running_anything(package):
    found = declared(package, "Own")
    assert list(found) == ["first", "shared", "number", "listed", "colour", "kind", "computed"]
    assert [option.default for option in found.values()][:-1] == [None, 2.5, 3, ["a"], "red", "x"]
    assert found["computed"].default == Unknown("1 + DEFAULT") and found["computed"].metadata == {"help": "as it is"}
    assert [type_.values for type_ in (found["colour"].types[0], found["kind"].types[0])] == [
        ("red", "blue"),
        ("x", "y"),
    ]
    assert names_in(package, "NAMES") == ("one", "two")


def test_names_that_only_running_would_tell_are_refused(package):
    for name in ("DEFAULT", "Nothing"):
        with pytest.raises(ValueError, match=f"{package}.{name}: expected a tuple of names"):
            names_in(package, name)
