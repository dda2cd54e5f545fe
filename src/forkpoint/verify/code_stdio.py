"""Programs that read and print, and functions with lists of arguments: rows like those of APPS and CodeContests."""

from __future__ import annotations

import inspect
import math
import re
from itertools import chain
from typing import Any

from forkpoint.sandbox import Trial
from forkpoint.verify import code_oracle
from forkpoint.verify.code_case import OUTPUT_BYTES, Case, Fields, NoTests, Reading, from_json
from forkpoint.verify.code_text import behind, defines, program_of

PAIRS = ("input_output", "public_tests", "private_tests", "generated_tests")
"""Fields that hold an object with inputs and outputs, as an object or as JSON text."""
COMMON = (
    ";".join(
        f"from {name} import *"
        for name in ("typing", "collections", "heapq", "bisect", "itertools", "functools", "math")
    )
    + ";from builtins import pow;import "
    + ",".join(
        (
            "typing",
            "collections",
            "heapq",
            "bisect",
            "itertools",
            "functools",
            "math",
            "string",
            "random",
            "re",
            "operator",
        )
    )
)
"""What sites like LeetCode import in front of a program, in one line; `pow` stays the one of the language."""
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

_CALLS = """

def _judge(calls, atol):
    for number, (arguments, expected) in enumerate(calls):
        got = _plain(candidate(*arguments))
        # APPS wraps what a function returns in a list.
        assert any(_same(got, e, atol) for e in _either(expected)), f"test {number}"


def _same(got, expected, atol):
    if got == expected:
        return True
    if isinstance(expected, list):
        same = isinstance(got, list) and len(got) == len(expected)
        return same and all(_same(g, e, atol) for g, e in zip(got, expected))
    # Integers have no tolerance.
    return bool(atol) and (isinstance(got, float) or isinstance(expected, float)) and close(got, expected, atol)


def _plain(value):
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _either(expected):
    return [expected, expected[0]] if isinstance(expected, list) and len(expected) == 1 else [expected]


"""


def stdio(row: Fields, text: str, reading: Reading) -> list[Case]:
    """Return the trials of rows like those of APPS, TACO and CodeContests: inputs and what must be printed.

    `inputs` and `outputs` (or `input` and `output`), or an object with them in `input_output`, `public_tests`,
    `private_tests` or `generated_tests`, as an object or as JSON text. With `fn_name` they are lists of arguments and
    what that function, or that method of a fresh `Solution` for every call, returns.
    """
    pairs, name = _pairs(row)
    if name is None:
        wanted = _outputs([out for _, out in pairs])
        program = program_of(text)
        return [
            Case(trial=Trial(program=program, stdin=_joined(given)), stdout=out)
            for (given, _), out in zip(pairs, wanted, strict=True)
        ]
    if all(expected is None for _, expected in pairs):
        raise NoTests(f"{name} returns nothing in any test")
    starter = str(row.get("starter_code") or "")
    asked, also = ("Solution", name) if defines(starter, "Solution") else (name, "Solution")
    program = program_of(text, prompt=starter, entry=asked, also=also)
    method = defines(program, "Solution") and re.search(rf"^[ \t]+(?:async\s+)?def\s+{name}\b", program, re.MULTILINE)
    entry = f"Solution.{name}" if method else name
    program = behind(COMMON, program) if program.strip() else program
    groups = [[pair] for pair in pairs] if reading.separate else [list(pairs)]
    head = f"{inspect.getsource(code_oracle)}{_CALLS}inf, nan = float('inf'), float('nan')\n"
    return [
        Case(trial=Trial(program=program, judge=f"{head}_judge({group!r}, {reading.tolerance!r})\n", entry=entry))
        for group in groups
    ]


def printed(got: str, expected: str, *, tolerance: float = 0.0) -> bool:
    r"""Return whether two outputs agree line by line, blanks and empty lines at the ends aside.

    Args:
        got: What a program printed.
        expected: What it should have.
        tolerance: Words that are numbers may differ by this, absolutely or relative to the expected one; not two
            integers, and nothing from what is not finite.

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


def _outputs(wanted: list[Any]) -> list[str]:
    """Return expected outputs as text.

    Raises:
        NoTests: One is missing or longer than what a program may print, or a program that prints nothing meets all.
    """
    if any(out is None for out in wanted):
        raise NoTests(f"output {next(i for i, out in enumerate(wanted, 1) if out is None)} is missing")
    texts = [_joined(out) for out in wanted]
    for number, out in enumerate(texts, 1):
        if len(out.encode("utf-8", "replace")) > OUTPUT_BYTES:
            raise NoTests(f"output {number} is longer than the {OUTPUT_BYTES:,} bytes that a program may print")
    if not any(out.strip() for out in texts):
        raise NoTests("every output is blank")
    return texts


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
    if not (_NUMBER.fullmatch(a) and _NUMBER.fullmatch(b)) or (_INTEGER.fullmatch(a) and _INTEGER.fullmatch(b)):
        return False
    got, expected = float(a), float(b)
    finite = math.isfinite(got) and math.isfinite(expected)
    return finite and abs(got - expected) <= tolerance * max(1.0, abs(expected))
