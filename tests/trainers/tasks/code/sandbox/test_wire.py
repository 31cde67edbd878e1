"""Untrusted messages are plain data or errors."""

import pytest

from trainers.tasks.code.sandbox import wire


def test_hostile_messages_are_values_or_errors():
    def unresolved(kind, content):
        raise ValueError(kind)

    deep = ["list", []]
    for _ in range(100_000):
        deep = ["list", [deep]]
    hostile = [
        [],
        [1],
        ["list"],
        ["list", 5],
        ["dict", [1]],
        ["dict", [[["list", []], 1]]],
        ["set", [["list", []]]],
        deep,
    ]
    hostile += [
        ["bytes", "xyz"],
        ["bytes", 1],
        ["complex", []],
        ["complex", ["a", "b"]],
        ["name", "f"],
        {"a": 1},
        ["a", "b", "c"],
    ]
    for message in hostile:
        with pytest.raises(ValueError):
            wire.decode(message, unresolved)
