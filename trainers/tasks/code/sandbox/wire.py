"""What the judge and the solution say to each other: plain data as JSON, never as pickles, over two pipes.

A message is four bytes of length and a JSON text. A container is written as [kind, content], anything that is no plain
data as a handle that only the solution's process can resolve. Reading untrusted messages makes plain data or raises
ValueError, nothing else.
"""

import json
import os
import struct
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

MAX_BYTES = 4 * 2**20  # of a message
MAX_ITEMS = 100_000  # taken of an iterator
HEADER = struct.Struct("<I")

CONTAINERS = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def encode(value: Any, keep: Callable[[Any], list]) -> Any:
    """A value as JSON can hold it.

    Args:
        value: plain data, or what `keep` knows to write; subclasses of plain types count as these.
        keep: writes anything else.

    Raises:
        TypeError, RecursionError: it cannot be written.
    """
    if value is None or isinstance(value, bool):
        return value
    for scalar in (int, float, str):
        if isinstance(value, scalar):
            return scalar(value)
    if isinstance(value, dict):
        return ["dict", [[encode(key, keep), encode(item, keep)] for key, item in value.items()]]
    for kind, container in CONTAINERS.items():
        if isinstance(value, container):
            return [kind, [encode(item, keep) for item in value]]
    if isinstance(value, bytes | bytearray):
        return ["bytes", value.hex()]
    if isinstance(value, complex):
        return ["complex", [value.real, value.imag]]
    if isinstance(value, Iterator):
        return ["iterator", [encode(item, keep) for item in islice(value, MAX_ITEMS)]]
    return keep(value)


def decode(message: Any, resolve: Callable[[str, Any], Any]) -> Any:
    """The value of what `encode` wrote.

    Args:
        message: parsed JSON from anywhere.
        resolve: reads the kinds that are no plain data.

    Raises:
        ValueError: it is no such message.
    """
    if message is None or isinstance(message, bool | int | float | str):
        return message
    if not (isinstance(message, list) and len(message) == 2 and isinstance(message[0], str)):
        raise ValueError("malformed message")
    kind, content = message
    try:
        if kind in CONTAINERS:
            return CONTAINERS[kind](decode(item, resolve) for item in content)
        if kind == "dict":
            return {decode(key, resolve): decode(item, resolve) for key, item in content}
        if kind == "iterator":
            return iter([decode(item, resolve) for item in content])
        if kind == "bytes":
            return bytes.fromhex(content)
        if kind == "complex":
            return complex(float(content[0]), float(content[1]))
    except (TypeError, IndexError, RecursionError) as error:
        raise ValueError("malformed message") from error
    return resolve(kind, content)


def send(descriptor: int, message: Any) -> None:
    """Write a message; OSError when nobody reads."""
    text = json.dumps(message).encode()
    if len(text) > MAX_BYTES:
        raise ValueError(f"a message of {len(text)} bytes: at most {MAX_BYTES}")
    data = memoryview(HEADER.pack(len(text)) + text)
    while data:
        data = data[os.write(descriptor, data) :]


def receive(descriptor: int) -> Any:
    """Read a message.

    Raises:
        EOFError: there are no more.
        ValueError: it is none.
    """
    (length,) = HEADER.unpack(_read(descriptor, HEADER.size))
    if length > MAX_BYTES:
        raise ValueError(f"a message of {length} bytes: at most {MAX_BYTES}")
    try:
        return json.loads(_read(descriptor, length))
    except RecursionError as error:
        raise ValueError("malformed message") from error


def _read(descriptor: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = os.read(descriptor, size - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)
