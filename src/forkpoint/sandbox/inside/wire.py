"""Plain values between program and judge, each side trusting nothing the other sends.

A frame is four bytes of length and JSON. None, booleans, finite and other floats, text and short integers stand
for themselves, lists for lists; everything else is an object with one letter:
`t` tuple, `d` dict, `s` set, `f` frozenset, `b` bytes, `c` complex, `i` long integer in hexadecimal.
"""

from __future__ import annotations

import json
import os
import struct
from collections import deque
from typing import Any

LARGEST = 8 << 20
"""Bytes of one frame."""
DEEPEST = 100
"""Levels of nesting."""


class WireError(Exception):
    """A value cannot travel, or what arrived is no value."""


def encode(value: Any, depth: int = 0) -> Any:
    """Return `value` as something JSON holds without loss, subclasses as their plain base."""
    if depth > DEEPEST:
        raise WireError(f"a value nested more than {DEEPEST} deep")
    if value is None or value is True or value is False:
        return value
    kind = type(value)
    if kind is str or kind is float:
        return value
    if kind is int:
        return value if -(1 << 62) < value < 1 << 62 else {"i": hex(value)}
    if kind is list:
        return [encode(item, depth + 1) for item in value]
    if kind is tuple:
        return {"t": [encode(item, depth + 1) for item in value]}
    return _encode_rare(value, depth)


def _encode_rare(value: Any, depth: int) -> Any:
    """Encode the kinds that seldom occur, and subclasses, whose own methods are not asked."""
    if isinstance(value, dict):
        return {"d": [[encode(key, depth + 1), encode(item, depth + 1)] for key, item in dict.items(value)]}
    if isinstance(value, frozenset):
        return {"f": [encode(item, depth + 1) for item in frozenset.__iter__(value)]}
    if isinstance(value, set):
        return {"s": [encode(item, depth + 1) for item in set.__iter__(value)]}
    if isinstance(value, (bytes, bytearray)):
        return {"b": bytes(value).hex()}
    if isinstance(value, complex):
        return {"c": [complex(value).real, complex(value).imag]}
    if isinstance(value, tuple):
        return {"t": [encode(item, depth + 1) for item in tuple.__iter__(value)]}
    if isinstance(value, list):
        return [encode(item, depth + 1) for item in list.__iter__(value)]
    if isinstance(value, deque):
        return [encode(item, depth + 1) for item in deque.__iter__(value)]
    if isinstance(value, int):
        return encode(int.__index__(value), depth)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    raise WireError(f"a value of type {type(value).__name__}")


def decode(value: Any, depth: int = 0) -> Any:
    """Return the plain value that `encode` stood for; everything in it is of a built-in type."""
    if depth > DEEPEST:
        raise WireError(f"a value nested more than {DEEPEST} deep")
    if isinstance(value, list):
        return [decode(item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise WireError("an object that is no value")
    ((letter, inside),) = value.items()
    try:
        if letter == "i":
            return int(inside, 16)
        if letter == "b":
            return bytes.fromhex(inside)
        if letter == "c":
            real, imaginary = inside
            return complex(float(real), float(imaginary))
        if letter == "d":
            return {decode(key, depth + 1): decode(item, depth + 1) for key, item in inside}
        if letter in _MANY:
            if not isinstance(inside, list):
                raise WireError("an object that is no value")
            return _MANY[letter](decode(item, depth + 1) for item in inside)
    except (TypeError, ValueError) as error:
        raise WireError(f"an object that is no value ({error})") from None
    raise WireError("an object that is no value")


_MANY: dict[str, Any] = {"t": tuple, "s": set, "f": frozenset}


def framed(message: Any) -> bytes:
    """Return one frame.

    Raises:
        WireError: Where it is too long.
    """
    data = json.dumps(message).encode()
    if len(data) > LARGEST:
        raise WireError(f"a value of more than {LARGEST} bytes")
    return struct.pack("!I", len(data)) + data


def send(descriptor: int, message: Any) -> None:
    """Write one frame.

    Raises:
        WireError: Where it is too long.
        OSError: Where the other end is gone.
    """
    write_all(descriptor, framed(message))


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data` to a blocking descriptor."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view[: 1 << 20]) :]


def read_exactly(descriptor: int, count: int) -> bytes:
    """Read `count` bytes.

    Raises:
        EOFError: Where the other end closed first.
    """
    parts = []
    while count:
        part = os.read(descriptor, min(count, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def receive(descriptor: int) -> Any:
    """Read one frame.

    Raises:
        WireError: Where it is too long or no JSON.
        EOFError: Where the other end closed.
    """
    (length,) = struct.unpack("!I", read_exactly(descriptor, 4))
    if length > LARGEST:
        raise WireError(f"a value of more than {LARGEST} bytes")
    try:
        return json.loads(read_exactly(descriptor, length))
    except (ValueError, RecursionError) as error:
        raise WireError(f"no JSON ({type(error).__name__})") from None
