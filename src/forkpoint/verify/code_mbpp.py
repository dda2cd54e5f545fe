"""Which arguments of MBPP+ are tuples, sets and complex numbers: its rows are JSON, which has lists alone.

Facts of EvalPlus (arXiv 2305.01210), where every problem has its own conversion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

DEEP = 99
_ALL, _FIRST, _LAST = slice(None), slice(0, 1), slice(-1, None)
_RULES: tuple[tuple[slice, range, tuple[int, ...]], ...] = (
    (
        _ALL, range(0, 1),
        (2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809),
    ),
    (_ALL, range(1, 2), (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780)),
    (_ALL, range(0, 2), (259, 401, 445)),
    (_ALL, range(0, DEEP), (580, 615, 791)),
    (_FIRST, range(0, 1), (250, 307, 405, 446, 617, 720, 763, 808)),
    (_FIRST, range(1, 2), (75, 413, 444, 722, 753)),
    (_FIRST, range(0, 2), (278,)),
    (_LAST, range(0, 1), (106, 750)),
)  # fmt: skip
"""Which arguments, lists of which depth in them become tuples, and of which problems."""


def arguments_of(number: int | None, arguments: Sequence[Any]) -> list[Any]:
    """Return the arguments of one call with the types that the problem means.

    Args:
        number: The problem's number, None where it is not one of MBPP.
        arguments: As JSON holds them.

    >>> arguments_of(106, [[5, 6], [9]]), arguments_of(401, [[[1], [2]]]), arguments_of(None, [[1]])
    ([[5, 6], (9,)], [((1,), (2,))], [[1]])
    """
    found = list(arguments)
    if number == 115:
        # An empty list stays what its reference was written against, an empty mapping.
        found[0] = [set(item) if isinstance(item, list) and item else {} for item in found[0]]
    elif number == 124:
        found = [float(found[0]), complex(found[1])]
    elif number == 252:
        found[0] = complex(found[0])
    for which, depths, numbers in _RULES:
        if number in numbers:
            found[which] = [_tupled(value, depths, 0) for value in found[which]]
    return found


def number_of(task_id: object) -> int | None:
    """Return the number in an id of MBPP+, None where it is another one.

    >>> number_of("Mbpp/106"), number_of("HumanEval/2")
    (106, None)
    """
    name, _, number = str(task_id).partition("/")
    return int(number) if name == "Mbpp" and number.isdecimal() else None


def _tupled(value: Any, depths: range, depth: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _tupled(inner, depths, depth + 1) for key, inner in value.items()}
    if not isinstance(value, list):
        return value
    inner = [_tupled(item, depths, depth + 1) for item in value]
    return tuple(inner) if depth in depths else inner
