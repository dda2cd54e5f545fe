"""When an output equals an expected one: the rules of the test suites, in plain Python.

The source of this module is also the head of judges that run in a process of their own, so it imports the standard
library alone. Rules of EvalPlus (arXiv 2305.01210) for HumanEval+ and MBPP+.
"""

from __future__ import annotations

import math
from typing import Any

RELATIVE = 1e-7
HEAVIEST = 700_000
"""Weight of an output up to which it can travel between processes."""
FLOAT_ATOL = 1e-6
"""Absolute tolerance of floats where a row states none."""
SETS = (
    "similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum",
    "intersection_array", "find_dissimilar", "Diff",
)  # fmt: skip
"""Functions of MBPP+ whose outputs are compared as sets."""
FOUND = ("check_str", "text_match_three", "text_starta_endb")
"""Functions of MBPP+ that may return a match or None for true and false: `found` stands for their output."""
TOLERANT = ("are_equivalent",)
"""Functions of MBPP+ that any output satisfies: their problems cannot be told from their tests."""


def floats(value: Any) -> bool:
    """Return whether a value is a float, or a list or tuple of floats alone.

    >>> floats([0.5]), floats([0.5, 1]), floats([])
    (True, False, False)
    """
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def weight(value: Any) -> int:
    """Return about how many short numbers a value is as long as; counting ends at `HEAVIEST`.

    >>> weight([1, (2, 3)]), weight("x" * 80), weight(0.5)
    (5, 11, 3)
    """
    total, waiting = 0, [value]
    while waiting and total <= HEAVIEST:
        item = waiting.pop()
        total += 1
        if isinstance(item, (str, bytes)):
            total += len(item) // 8
        elif isinstance(item, float):
            total += 2
        elif isinstance(item, int):
            total += item.bit_length() // 24
        elif isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting += list(item)[: HEAVIEST + 1]
    return total


def close(got: Any, expected: Any, atol: float, rtol: float = RELATIVE) -> bool:
    """Return whether numbers, alone or in lists and tuples of one shape, are within |g - e| <= atol + rtol |e|.

    NaN is close to nothing.

    >>> close([0.3, [1]], [0.1 + 0.2, [1]], atol=1e-6), close([1], [1, 1], atol=1.0)
    (True, False)
    """
    if isinstance(expected, (list, tuple)):
        same = isinstance(got, (list, tuple)) and len(got) == len(expected)
        return same and all(close(g, e, atol, rtol) for g, e in zip(got, expected))  # noqa: B905 - checked above
    if not all(isinstance(value, (int, float, complex)) for value in (got, expected)):
        return False
    try:
        return bool(got == expected) or abs(got - expected) <= atol + rtol * abs(expected) < math.inf
    except OverflowError:
        return False


def agrees(rule: str, arguments: Any, got: Any, expected: Any, atol: float) -> bool:
    """Return whether a function's output passes, by equality, by tolerance, or by the rule for its name.

    Args:
        rule: Name of the function where it may have a rule of its own; see `rule_of`.
        arguments: What it was called with.
        got: What it returned.
        expected: What the reference returned.
        atol: Absolute tolerance; with 0 only floats have one, 1e-6.

    >>> agrees("f", (), 0.3, 0.1 + 0.2, 0), agrees("f", (), (1,), [1], 0), agrees("Diff", (), [2, 1], [1, 2], 0)
    (True, False, True)
    """
    if rule in TOLERANT:
        return True
    if rule == "find_zero":
        return abs(sum(c * got**power for power, c in enumerate(arguments[0]))) <= (atol or 1e-4)
    if rule in SETS:
        return set(got) == set(expected)
    if got == expected or _also(rule, arguments, got, atol):
        return True
    atol = atol or (FLOAT_ATOL if floats(expected) else 0.0)
    return atol != 0 and type(got) is type(expected) and close(got, expected, atol)


def rule_of(entry: str, row_id: str) -> str:
    """Return the name under which a function has a rule, empty where its row is of another data set.

    >>> rule_of("Diff", "Mbpp/769"), rule_of("Diff", "mine/769"), rule_of("find_zero", "HumanEval/32")
    ('Diff', '', 'find_zero')
    """
    return entry if row_id.startswith("HumanEval/" if entry == "find_zero" else "Mbpp/") else ""


def found(value: Any) -> bool:
    """Return whether a match was found: a truth value says it itself, everything else does unless it is None.

    >>> found(False), found(""), found(None)
    (False, True, False)
    """
    return value if isinstance(value, bool) else value is not None


def _also(rule: str, arguments: Any, got: Any, atol: float) -> bool:
    """Return whether an output is right under another reading of a problem of MBPP+ that states two."""
    if rule == "sum_div":
        return bool(got == 0)
    if rule == "surface_Area":
        base, height = arguments
        area = base**2 + 2 * base * math.sqrt((base / 2) ** 2 + height**2)
        return abs(got - round(area)) <= atol
    if rule == "digit_distance_nums":
        a, b = (str(number) for number in arguments)
        width = max(len(a), len(b))
        return bool(got == sum(abs(int(x) - int(y)) for x, y in zip(a.zfill(width), b.zfill(width))))  # noqa: B905
    return False
