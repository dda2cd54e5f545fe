r"""Where the answer stands in a completion or a reference: one function a convention.

Rewards use `boxed` alone: any looser rule can be satisfied by listing guesses. The others read recorded
completions that were written under other conventions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from forkpoint.verify.exact import last_boxed

_NUMBER = re.compile(r"(?<![\d.])-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
_A_LINE = re.compile(r"^[ \t]*A:[ \t]*(.*)$", re.MULTILINE)


def after_hashes(text: str) -> str | None:
    r"""Return what follows the last `####` on its line (GSM8K, arXiv 2110.14168).

    >>> after_hashes("16 - 3 - 4 = 9\n#### 18")
    '18'
    """
    _, found, tail = text.rpartition("####")
    answer = tail.strip().split("\n")[0].strip() if found else ""
    return answer or None


def a_line(text: str) -> str | None:
    r"""Return what follows `A:` on the last line that starts so.

    >>> a_line("She makes 9 * 2 = $18\nA: 18")
    '18'
    """
    found = _A_LINE.findall(text)
    return (found[-1].strip() or None) if found else None


def last_number(text: str) -> str | None:
    """Return the last number in the text, with its sign and thousands separators.

    >>> last_number("so 1,250 or -3.5.")
    '-3.5'
    """
    found = _NUMBER.findall(text)
    return found[-1].rstrip(",") if found else None


def whole(text: str) -> str | None:
    """Return the whole text, stripped.

    >>> whole(" 42 ")
    '42'
    """
    return text.strip() or None


def auto(text: str) -> str | None:
    r"""Return the answer of a reference: its box, what follows `####` or `A:`, else all of it.

    A reference that has a marker and nothing after it has no answer.

    >>> auto(r"hence \boxed{7}"), auto("1+1\n#### 2"), auto("1+1\nA: 2"), auto("2")
    ('7', '2', '2', '2')
    """
    for marker, extract in (("\\boxed", last_boxed), ("####", after_hashes)):
        if marker in text:
            return extract(text) or None
    return a_line(text) if _A_LINE.search(text) else whole(text)


EXTRACTIONS: Mapping[str, Callable[[str], str | None]] = {
    "boxed": last_boxed,
    "gsm8k": after_hashes,
    "a-line": a_line,
    "number": last_number,
    "whole": whole,
    "auto": auto,
}
"""Name of a convention -> function from a text to its answer, or None where there is none."""
