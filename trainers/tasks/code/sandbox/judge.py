"""The trusted side: run unit tests in a process that the tested code is not in.

What the tests call is a `Remote`: a stand-in whose calls are answered by the other process, in plain data. So the code
can answer with a value, with an exception, or not at all; the value is compared here, and what is expected never gets
there. No print, exit, patched builtin or object that equals everything reaches the verdict.

Convention: the stand-ins are the names that the tests use and do not define, without builtins and modules. Limits of
this: changes that a function makes to its arguments, and functions given as arguments, do not cross.
"""

import ast
import builtins
import sys
from collections.abc import Iterator
from typing import Any

from trainers.tasks.code.sandbox import wire


class Remote:
    """Something in the solution's process: it can be called, and given back as an argument."""

    def __init__(self, channel: "Channel", reference: list):
        self._channel, self._reference = channel, reference

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Have the other process call it with plain data, and return or raise what it answers."""
        return self._channel.call(self, arguments, keywords)

    def _refuse(self, *_: Any) -> Any:
        raise TypeError("the tested code answered with something that is no plain data")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __len__ = _refuse
    __hash__ = None  # type: ignore[assignment]


class Channel:
    """The two pipes to the solution's process."""

    def __init__(self, requests: int, answers: int):
        self._requests, self._answers = requests, answers

    def call(self, target: Remote, arguments: tuple, keywords: dict[str, Any]) -> Any:
        """Raises what the call raised, by name; EOFError or OSError when nobody answers any more."""
        wire.send(self._requests, [wire.encode(part, self._keep) for part in (target, arguments, keywords)])
        reply = wire.receive(self._answers)
        if not (isinstance(reply, list) and len(reply) == 2):
            raise ValueError("malformed answer")
        if reply[0] == "value":
            return wire.decode(reply[1], self._resolve)
        kind = getattr(builtins, str(reply[1]), None)
        raised = kind if isinstance(kind, type) and issubclass(kind, Exception) else RuntimeError
        raise raised("raised by the tested code")

    def _keep(self, value: Any) -> list:
        if not isinstance(value, Remote):
            raise TypeError(f"{type(value).__name__} cannot be given to the tested code")
        return value._reference

    def _resolve(self, kind: str, content: Any) -> Remote:
        if kind != "object" or not isinstance(content, int):
            raise ValueError("malformed answer")
        return Remote(self, [kind, content])


def outside_names(trees: list[ast.Module]) -> tuple[set[str], set[str]]:
    """The names that tests use and do not define: those of the tested code, and modules nobody imported."""
    used, modules, defined = set(), set(), set(dir(builtins))
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.alias):
            defined.add((node.asname or node.name).split(".")[0])
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            modules.add(node.value.id)
    used -= defined
    modules &= used & sys.stdlib_module_names
    return used - modules, modules


def verdicts(job: dict[str, Any], channel: Channel) -> Iterator[bool]:
    """Whether each test passes, one after the other.

    Args:
        job: setup (code of the tests), tests (statements that raise when they fail), entry (names that are the tested
            code's even if the setup defines them).
        channel: to the tested code.
    """
    names: dict[str, Any] = {"__name__": "tests"}
    setup = ast.parse(job["setup"])
    tests = [ast.parse(test) for test in job["tests"]]
    remote, modules = outside_names([setup, *tests])
    names |= {name: __import__(name) for name in modules}
    names |= {name: Remote(channel, ["name", name]) for name in remote}
    exec(compile(setup, "<setup>", "exec"), names)
    names |= {name: Remote(channel, ["name", name]) for name in job["entry"]}
    for test in tests:
        try:
            exec(compile(test, "<test>", "exec"), names)
        except Exception:
            yield False
        else:
            yield True
