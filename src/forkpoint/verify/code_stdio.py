"""Programs that read and print, and functions with lists of arguments: rows like those of APPS and CodeContests."""

from __future__ import annotations

import inspect
import math
from itertools import chain
from typing import Any

from forkpoint.sandbox import Trial
from forkpoint.verify import code_oracle
from forkpoint.verify.code_case import Case, Fields, NoTests, Reading, from_json
from forkpoint.verify.code_text import defines, program_of

PAIRS = ("input_output", "public_tests", "private_tests", "generated_tests")
"""Fields that hold an object with inputs and outputs, as an object or as JSON text."""

_CALLS = """

def _judge(calls, atol):
    for number, (arguments, expected) in enumerate(calls):
        got = _plain(candidate(*arguments))
        # APPS wraps what a function returns in a list.
        assert any(got == e or (atol and close(got, e, atol)) for e in _either(expected)), f"test {number}"


def _plain(value):
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _either(expected):
    return [expected, expected[0]] if isinstance(expected, list) and len(expected) == 1 else [expected]


"""


def stdio(row: Fields, text: str, reading: Reading) -> list[Case]:
    """Return the trials of rows like those of APPS, TACO and CodeContests: inputs and what must be printed.

    `inputs` and `outputs` (or `input` and `output`), or an object with them in `input_output`, `public_tests`,
    `private_tests` or `generated_tests`, as an object or as JSON text. With `fn_name` they are lists of arguments and
    what that function, or that method of `Solution`, returns.
    """
    pairs, name = _pairs(row)
    if name is None:
        program = program_of(text)
        return [Case(trial=Trial(program=program, stdin=_joined(given)), stdout=_joined(out)) for given, out in pairs]
    program = program_of(text, prompt=str(row.get("starter_code") or ""), entry=name)
    if defines(program, "Solution"):
        program = f"{program}\n\n{name} = Solution().{name}\n"
    groups = [[pair] for pair in pairs] if reading.separate else [list(pairs)]
    head = f"{inspect.getsource(code_oracle)}{_CALLS}inf, nan = float('inf'), float('nan')\n"
    return [
        Case(trial=Trial(program=program, judge=f"{head}_judge({group!r}, {reading.tolerance!r})\n", entry=name))
        for group in groups
    ]


def printed(got: str, expected: str, *, tolerance: float = 0.0) -> bool:
    r"""Return whether two outputs agree line by line, blanks and empty lines at the ends aside.

    Args:
        got: What a program printed.
        expected: What it should have.
        tolerance: Words that are numbers may differ by this, absolutely or relative to the expected one.

    >>> printed("1  2 \n\n", "1 2"), printed("1 2", "1\n2"), printed("0.30000001", "0.3", tolerance=1e-6)
    (True, False, True)
    """
    mine, theirs = _lines(got), _lines(expected)
    if mine == theirs:
        return True
    if tolerance <= 0 or [len(line) for line in mine] != [len(line) for line in theirs]:
        return False
    return all(a == b or _near(a, b, tolerance) for a, b in zip(chain(*mine), chain(*theirs), strict=True))


def _pairs(row: Fields) -> tuple[list[tuple[Any, Any]], str | None]:
    """Return inputs with outputs, and the function they belong to where there is one."""
    found: list[tuple[Any, Any]] = []
    name = row.get("fn_name")
    for source in (row, *(from_json(row.get(field)) for field in PAIRS)):
        if not isinstance(source, dict):
            continue
        given = from_json(source.get("inputs", source.get("input")))
        wanted = from_json(source.get("outputs", source.get("output")))
        name = name or source.get("fn_name")
        if isinstance(given, list) and isinstance(wanted, list):
            if len(given) != len(wanted):
                raise NoTests(f"{len(given)} inputs and {len(wanted)} outputs")
            found += zip(given, wanted, strict=True)
    if not found:
        raise NoTests(f"neither inputs with outputs nor any of {', '.join(PAIRS)} holds tests")
    if name is not None and not (isinstance(name, str) and name.isidentifier()):
        raise NoTests("fn_name is no name")
    if name is not None and not all(isinstance(given, list) for given, _ in found):
        raise NoTests(f"the inputs of {name} are no lists of arguments")
    return found, name


def _joined(value: Any) -> str:
    """Return lines as text; some rows hold lists of them."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _lines(text: str) -> list[list[str]]:
    lines = [line.split() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    start = next((place for place, line in enumerate(lines) if line), 0)
    return lines[start:]


def _near(a: str, b: str, tolerance: float) -> bool:
    try:
        got, expected = float(a), float(b)
    except ValueError:
        return False
    return math.isfinite(got) and abs(got - expected) <= tolerance * max(1.0, abs(expected))
