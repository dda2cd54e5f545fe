"""What every style of code tests shares: cases, how completions are read, and the fields of a row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forkpoint.rollouts import Prompt
from forkpoint.sandbox import Trial

Fields = Mapping[str, Any]
OUTPUT_BYTES = 1 << 20
"""What a program may print: outputs of tests are longer than what one would read."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One trial of a program, and what it must print where no judge decides."""

    trial: Trial
    stdout: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How completions and rows are read."""

    stops: bool = False
    """End continuations at the first stop sequence."""
    separate: bool = False
    """One trial a test where tests can be told apart."""
    tolerance: float = 0.0
    """Of numbers that are printed or returned, absolute or relative, where a row states none of its own."""


class NoTests(Exception):  # noqa: N818 - an answer, not an accident
    """A row holds nothing that a program could be tested by; the message says what is missing."""


def fields_of(prompt: Prompt) -> dict[str, Any]:
    """Return every field of a row: its metadata over its `extra_info` over a reference that is a JSON object.

    A reference that is other text stands as `tests`.

    >>> fields_of(Prompt(id="1", text="", answer='{"fn_name": "f"}', meta={"extra_info": {"split": "train"}}))
    {'fn_name': 'f', 'split': 'train', 'extra_info': {'split': 'train'}}
    """
    found: dict[str, Any] = {}
    if prompt.answer:
        value = from_json(prompt.answer)
        found |= value if isinstance(value, dict) else {"tests": value}
    extra = prompt.meta.get("extra_info")
    return {**found, **(extra if isinstance(extra, Mapping) else {}), **prompt.meta}


def from_json(value: object) -> Any:
    """Return what a JSON text holds, and everything else as it is.

    >>> from_json("[1]"), from_json("assert f(1)"), from_json({})
    ([1], 'assert f(1)', {})
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def text_field(row: Fields, name: str) -> str:
    """Return a field that must hold text.

    Raises:
        NoTests: It is missing, empty or no text.
    """
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise NoTests(f"{name} is {'missing' if value is None else 'empty' if value == '' else 'no text'}")
    return value


def list_field(row: Fields, name: str) -> list[Any]:
    """Return a field that must hold a list or nothing; JSON text is read, empty objects are empty lists.

    Raises:
        NoTests: It holds something else.
    """
    value = from_json(row.get(name))
    if not value:
        return []
    if not isinstance(value, list):
        raise NoTests(f"{name} is no list")
    return value
