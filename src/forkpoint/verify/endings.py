r"""Where an answer's final answer stands, what opens it, and where the reasoning before it has its steps.

A verifier reads the final answer alone; credit by steps or by final answers also needs the place where it begins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from forkpoint.tasks.countdown import CONNECTIVES
from forkpoint.verify.exact import normalise, number
from forkpoint.verify.extract import a_line, after_hashes, last_boxed, last_number, whole


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The final answer of one text."""

    answer: str
    """What is answered, as written."""
    opener: str
    """What opens it, such as `\\boxed{`; may be empty."""
    start: int
    """Character at which the opener, or without one the answer, begins: the reasoning is what precedes it."""


@dataclass(frozen=True, kw_only=True)
class Convention:
    """How a task's answers end."""

    find: Callable[[str], Ending | None]
    step: re.Pattern[str]
    """A step of the reasoning ends where this ends."""


_PARAGRAPH = re.compile(r"\n\s*\n")


def _marked(
    extract: Callable[[str], str | None], marker: Callable[[str, str], int], opener: str
) -> Callable[[str], Ending | None]:
    def find(text: str) -> Ending | None:
        answer = extract(text)
        start = -1 if not answer else marker(text, answer)
        return None if start < 0 or not answer else Ending(answer=answer, opener=opener, start=start)

    return find


def _box_start(text: str, answer: str) -> int:
    """Return where the last box with this content begins; a box that never closes may follow it."""
    starts = [match.start() for match in re.finditer(r"\\boxed", text)]
    return next((start for start in reversed(starts) if last_boxed(text[start:]) == answer), -1)


def _a_line_start(text: str, answer: str) -> int:
    found = [match.start() for match in re.finditer(r"^[ \t]*A:", text, re.MULTILINE)]
    return found[-1] if found else -1


_FINDERS: Mapping[str, Callable[[str], Ending | None]] = {
    "boxed": _marked(last_boxed, _box_start, "\\boxed{"),
    "gsm8k": _marked(after_hashes, lambda text, _: text.rfind("####"), "#### "),
    "a-line": _marked(a_line, _a_line_start, "A: "),
    "number": _marked(last_number, lambda text, answer: text.rfind(answer), ""),
    "whole": _marked(whole, lambda text, answer: text.find(answer), ""),
}


def _auto(text: str) -> Ending | None:
    for marker, name in (("\\boxed", "boxed"), ("####", "gsm8k")):
        if marker in text:
            return _FINDERS[name](text)
    return _FINDERS["a-line"](text) or _FINDERS["whole"](text)


def _last_attempt(text: str) -> Ending | None:
    """Return the last attempt of a Countdown answer that claims success, opened by its connective."""
    words = text.split()
    if not words or words[-1] != "yes" or len(words) < 13 or words[-13] not in CONNECTIVES:
        return None
    answer, opener = " ".join(words[-12:-1]), words[-13]
    start = text.rfind(f"{opener} {answer}")
    return None if start < 0 else Ending(answer=answer, opener=opener, start=start)


def convention(extraction: str) -> Convention:
    r"""Return how answers end under a name of `forkpoint.verify.extract.EXTRACTIONS`, or in `countdown`.

    Steps are paragraphs; in Countdown they are attempts, which end with `no` (and the coin's `again`).

    >>> convention("boxed").find(r"So it is \boxed{7}.")
    Ending(answer='7', opener='\\boxed{', start=9)
    >>> convention("countdown").find("first 1 + 2 = 3 , 3 + 4 = 7 no stop")
    """
    if extraction == "countdown":
        return Convention(find=_last_attempt, step=re.compile(r" no\b( again\b)?"))
    return Convention(find=_auto if extraction == "auto" else _FINDERS[extraction], step=_PARAGRAPH)


def same_form(ending: Ending | None) -> str | None:
    """Return a final answer so that equal ones are equal texts: exact numbers by value, else without layout.

    >>> same_form(Ending(answer="0.5", opener="", start=0)) == same_form(Ending(answer="1/2", opener="", start=0))
    True
    """
    if ending is None:
        return None
    value = number(ending.answer)
    return str(value) if value is not None else normalise(ending.answer)
