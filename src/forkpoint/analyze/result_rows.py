"""What a row of graded answers says: fields by any of their names, as numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from forkpoint.errors import InputError

NAMES: Mapping[str, tuple[str, ...]] = {
    "problem": ("problem_id", "prompt_id", "id", "idx", "task_id"),
    "value": ("verdict", "value", "correct", "is_correct"),
    "sample": ("sample", "sample_id"),
    "length": ("length", "completion_tokens"),
    "truncated": ("truncated", "finish", "finish_reason"),
    "format": ("format", "has_answer"),
    "answer": ("extracted", "pred"),
    "score": ("score",),
    "entropy": ("entropy_sum", "entropy"),
}
"""What is read of an answer, and the fields it is looked for in. `entropy` is a list over tokens, or `entropy_sum`."""
_WORDS = {
    "right": 1.0, "wrong": 0.0, "unjudged": math.nan, "correct": 1.0, "incorrect": 0.0, "true": 1.0, "false": 0.0,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Names of fields where they are none of `NAMES`; dots reach into nested ones."""

    problem: str | None = None
    value: str | None = None
    answer: str | None = None
    score: str | None = None


_LARGEST = 1e100
"""Values from here on are no scores, and their squares are no numbers."""
ABSENT: Any = object()
"""What a row does not have, which is not null."""


def found(row: Mapping[str, Any], key: str, wanted: str | None) -> Any:
    """Return what a row says of `key`, `ABSENT` where it says nothing."""
    for name in (wanted,) if wanted else NAMES[key]:
        if name in row:
            return row[name]
        value: Any = row
        for part in name.split("."):
            value = value.get(part, ABSENT) if isinstance(value, Mapping) else ABSENT
        if value is not ABSENT:
            return value
    return ABSENT


def problem_id(value: Any, fields: Fields, where: str, row: Mapping[str, Any]) -> str:
    """Return the problem id of a row, which it must have."""
    if value is ABSENT or value is None or value == "" or isinstance(value, list | dict):
        wanted = fields.problem or " or ".join(NAMES["problem"])
        raise InputError(
            f"{where} has no problem id ({wanted}); its fields are {', '.join(map(str, row))}: name it with --id"
        )
    return str(value)


def spread(key: str, values: Any, count: int, where: str) -> list[Any]:
    """Return one value an answer: a list as long as the verdicts, or what holds for the one answer of the row."""
    if values is ABSENT or values is None:
        return [None if key != "value" else math.nan] * count
    if not isinstance(values, list):
        values = [values] if count == 1 or key == "value" else [None] * count
    elif key == "entropy" and count == 1:
        values = [math.fsum(values)] if all(map(is_number, values)) else [None]
    if len(values) != count:
        raise InputError(f"{where}: {len(values)} values of {key} for {count} verdicts")
    return [_READ[key](value, f"{where}: {key}") for value in values]


def _value(value: Any, where: str) -> float:
    if isinstance(value, str) and value.lower() in _WORDS:
        return _WORDS[value.lower()]
    if value is None:
        return math.nan
    if isinstance(value, int | float) and not abs(value) >= _LARGEST:
        return float(value)
    shown = repr(value)
    raise InputError(
        f"{where} is {shown[:60]}{'…' * (len(shown) > 60)}, but {', '.join(_WORDS)} or a number was expected"
    )


def _number(value: Any, where: str) -> float | None:
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return float(value) if is_number(value) else None


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number or a bool."""
    return isinstance(value, int | float) and math.isfinite(value)


def _truncated(value: Any, where: str) -> float | None:
    return float(value == "length") if isinstance(value, str) else _number(value, where)


def _whole(value: Any, where: str = "") -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Any, where: str = "") -> str | None:
    return None if value is None else str(value)


_READ: Mapping[str, Callable[[Any, str], Any]] = {
    "value": _value, "sample": _whole, "length": _number, "truncated": _truncated, "format": _number,
    "answer": _text, "score": _number, "entropy": _number,
}  # fmt: skip
