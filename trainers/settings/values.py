"""From the text of a setting to its value, by the declared type: the rules of transformers' `HfArgumentParser`.

They are written again here because its import takes most of a second, and a typo is refused before that;
`tests/trainers/settings/test_values.py` compares the two for every option there is.
"""

import argparse
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from trainers.settings.declarations import Declared, List, Values

TRUE, FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")


def switch(text: str) -> bool:
    """A boolean, as people write it."""
    if text.lower() in TRUE + FALSE:
        return text.lower() in TRUE
    raise argparse.ArgumentTypeError(text)


def mapping(text: str) -> dict[str, Any]:
    """No text is one: what is JSON has been read by then (`json_object`)."""
    raise argparse.ArgumentTypeError(text)


PYTHON: dict[Any, Callable[[str], Any]] = {"int": int, "float": float, "str": str, "bool": switch}
EXPECTED = {int: "a whole number", float: "a number", str: "one value", switch: "true or false", mapping: "a mapping"}


def argument(option: Declared) -> dict[str, Any]:
    """The keyword arguments of argparse's ``add_argument`` that read an option's text."""
    kind = _kind(option.types)
    known = {"default": option.default}
    if isinstance(kind, List):
        return known | {"type": _reader(kind.item), "nargs": "+"}
    if isinstance(kind, Values):
        return known | {"type": _reader(kind), "choices": kind.values}
    if kind == "bool" and ("None" not in option.types or option.default is not None):
        return known | {"type": switch, "nargs": "?", "const": True}
    return known | {"type": _reader(kind)}


def admits(option: Declared, kind: type) -> bool:
    """Whether a value that YAML has read already, a dict or a list, is one of the option's."""
    return kind.__name__ in option.types or (kind is list and any(isinstance(one, List) for one in option.types))


def json_object(text: str) -> Any:
    """A JSON object as such; any other text as it is, such as the name of a file with one."""
    with suppress(ValueError):
        value = json.loads(text)
        return value if isinstance(value, dict) else text
    return text


def expected(action: argparse.Action) -> str:
    """What a setting takes, for people."""
    if action.choices:
        return f"one of {', '.join(map(str, action.choices))}"
    return "one or more values" if action.nargs == "+" else EXPECTED[action.type]


def _kind(types: tuple[Any, ...]) -> Any:
    """Of several alternatives, the one that a text is read as."""
    if len(types) == 1:
        return types[0]
    if "None" not in types:
        return types[0] if types[1] == "str" else types[1]
    if "bool" in types:
        return "bool"
    return types[0] if types[1] == "None" else types[1]


def _reader(kind: Any) -> Callable[[str], Any]:
    if not isinstance(kind, Values):
        return PYTHON.get(kind, mapping)
    by_text = {str(value): value for value in kind.values}

    def one_of(text: str) -> Any:
        if text not in by_text:
            raise argparse.ArgumentTypeError(text)
        return by_text[text]

    return one_of
