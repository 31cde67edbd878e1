"""What our trainers redefine of the libraries that they ride on: as the classes show it, and as a docstring says."""

import inspect
import re

LIBRARIES = ("trl", "transformers", "accelerate", "torch", "builtins")
ROW = re.compile(r"^(\w+) \((\w+)\): \S.*$", re.MULTILINE)


def ours(trainer: type) -> list[type]:
    """The classes of ours among those in which a method is looked up, in that order."""
    return [cls for cls in trainer.__mro__ if cls.__module__.split(".")[0] not in LIBRARIES]


def redefined(trainer: type) -> set[tuple[str, str]]:
    """(name, class of ours) of every attribute of a library's class that a class of ours defines anew, anywhere in the
    order in which methods are looked up. Constructors and what every class has are left out."""
    own = ours(trainer)
    theirs = {name for cls in trainer.__mro__ if cls not in own for name in vars(cls) if not name.startswith("__")}
    return {(name, cls.__name__) for cls in own for name in vars(cls) if name in theirs}


def documented(trainer: type) -> list[tuple[str, str]]:
    """The rows ``name (Class): why`` of a trainer's docstring."""
    return ROW.findall(inspect.getdoc(trainer) or "")
