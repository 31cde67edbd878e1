"""The untrusted side: run the code, then answer the judge's calls. All of this is in the code's own hands."""

import builtins
import sys
from types import ModuleType
from typing import Any

from trainers.tasks.code.sandbox import wire


def run(code: str, name: str) -> tuple[int, dict[str, Any]]:
    """Run code as a module.

    Args:
        code: Python.
        name: of the module: "__main__" runs what a script runs.

    Returns:
        The exit status that the interpreter would have, and the module's names.
    """
    module = ModuleType(name)
    module.__dict__["__builtins__"] = builtins
    sys.modules[name] = module  # dataclasses and pickle look themselves up
    try:
        exec(compile(code, "<code>", "exec"), module.__dict__)
    except SystemExit as leaving:
        if leaving.code is None or isinstance(leaving.code, int):
            return leaving.code or 0, module.__dict__
        print(leaving.code, file=sys.stderr)
        return 1, module.__dict__
    except BaseException as error:  # the code's own, shown as the interpreter shows it
        sys.__excepthook__(type(error), error, error.__traceback__)
        return 1, module.__dict__
    return 0, module.__dict__


def answer(requests: int, answers: int, names: dict[str, Any]) -> None:
    """Serve calls until the judge hangs up. A request is [what, arguments, keywords]; an answer is ["value", value] or
    ["raised", name of the exception]."""
    kept: list[Any] = []

    def keep(value: Any) -> list:
        kept.append(value)
        return ["object", len(kept) - 1]

    def resolve(kind: str, content: Any) -> Any:
        return kept[content] if kind == "object" else names[content]

    while True:
        try:
            request = wire.receive(requests)
        except EOFError:
            return
        try:
            target, arguments, keywords = (wire.decode(part, resolve) for part in request)
            reply = ["value", wire.encode(target(*arguments, **keywords), keep)]
            wire.send(answers, reply)
        except BaseException as error:  # sys.exit in a function is no verdict either
            wire.send(answers, ["raised", type(error).__name__])
