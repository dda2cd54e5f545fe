"""Checks of arguments that links share: one clear sentence for a number out of range."""

from __future__ import annotations

import math
from collections.abc import Collection

from forkpoint.errors import InputError, did_you_mean


def check_number(
    link: str, name: str, value: object, *, low: float = -math.inf, high: float = math.inf, open_low: bool = False
) -> None:
    """Raise `InputError` unless `value` is a finite number in [low, high], or in (low, high] with `open_low`."""
    wrong = isinstance(value, bool) or not isinstance(value, int | float)
    if not wrong:
        assert isinstance(value, int | float)  # noqa: S101 - for the type checker
        wrong = not (math.isfinite(value) and low <= value <= high) or (open_low and value == low)
    if wrong:
        left = "(" if open_low or low == -math.inf else "["
        right = ")" if high == math.inf else "]"
        raise InputError(f"{link} {name} is {value!r} and must be a finite number in {left}{low:g}, {high:g}{right}")


def check_choice(link: str, name: str, value: str, valid: Collection[str]) -> None:
    """Raise `InputError` unless `value` is one of `valid`."""
    if value not in valid:
        raise InputError(f"unknown {name} {value!r} of {link}: {did_you_mean(str(value), valid)}")
