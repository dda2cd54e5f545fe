r"""Equality of mathematical answers by math-verify. Runs inside a worker process of `VerifierPool` only.

math-verify is used without its own timeouts (they rely on SIGALRM in the main thread): the pool kills a
worker that is late. Its repair of malformed operators is off, as upstream advises for rewards; what TeX
itself accepts (`\frac12`, `\sqrt2`) is spelled out here first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from forkpoint.verify.exact import strip_wrapping

SMALL = 1e-3
"""math-verify compares numbers rounded to 6 decimals; below this size that says nothing."""
RELATIVE = 1e-3
"""How far two small numbers may differ, relative to the larger, before rounding is not believed."""


def compare(item: Mapping[str, str]) -> dict[str, str]:
    """Compare an answer with its reference.

    Args:
        item: `gold` and `answer`, both already extracted and within the caps of `over_cap`.

    Returns:
        `verdict` (`right`, `wrong`, `unjudged`) and `detail`.
    """
    from math_verify import verify

    gold, answer = _parse(item["gold"]), _parse(item["answer"])
    if not gold:
        return {"verdict": "unjudged", "detail": "unreadable reference"}
    if not answer:
        return {"verdict": "wrong", "detail": "unreadable answer"}
    try:
        # The order matters: an assignment or interval is unfolded on the side of the answer alone.
        equal = verify(gold, answer, timeout_seconds=None, raise_on_error=True)
        equal = equal and ("%" in item["gold"] + item["answer"] or _same_size(gold[0], answer[0]))
    except (MemoryError, RecursionError):
        return {"verdict": "unjudged", "detail": "out of memory"}
    except Exception as error:
        # sympy raises exceptions of many kinds on expressions of different kinds; those are not equal.
        return {"verdict": "wrong", "detail": f"not comparable ({type(error).__name__})"}
    return {"verdict": "right" if equal else "wrong", "detail": ""}


def prepare() -> None:
    """Import and warm up the parser, so that the first deadline does not pay for it."""
    compare({"gold": r"\frac{x+1}{2}", "answer": r"\frac{1+x}{2}"})


def explicit_arguments(text: str) -> str:
    r"""Write the arguments of fractions and roots with braces, as TeX reads them.

    >>> explicit_arguments(r"\tfrac12 + \sqrt3 + \frac{1}2")
    '\\frac{1}{2} + \\sqrt{3} + \\frac{1}{2}'
    >>> explicit_arguments(r"4\sqrt(2)"), explicit_arguments("sqrt(2)")
    ('4\\sqrt{2}', '\\sqrt{2}')
    """
    text = re.sub(r"\\[dtc]frac(?![a-zA-Z])", r"\\frac", text)
    text = re.sub(r"\\frac\s*([0-9])\s*([0-9])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*([0-9])\s*\{", r"\\frac{\1}{", text)
    text = re.sub(r"\\frac\s*(\{[^{}]*\})\s*([0-9])", r"\\frac\1{\2}", text)
    text = re.sub(r"\\sqrt\s*([0-9])", r"\\sqrt{\1}", text)
    return re.sub(r"(?:\\|(?<![a-zA-Z\\]))sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)


def _parse(answer: str) -> list[Any]:
    """Return the parsed answer in a list, empty where it cannot be read."""
    from math_verify import parse

    text = explicit_arguments(strip_wrapping(answer))
    # LaTeX outside an environment is not extracted, so both sides are wrapped the same way.
    found: list[Any] = parse(
        f"$\\boxed{{{text}}}$",
        extraction_config=[_boxed_latex()],
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )
    return found


@cache
def _boxed_latex() -> Any:
    """Return the extraction: the box first, nothing without an anchor, no repair of malformed operators."""
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
    from math_verify import LatexExtractionConfig

    normalization = NormalizationConfig(
        basic_latex=True, units=True, malformed_operators=False, nits=True, boxed="all", equations=False
    )
    return LatexExtractionConfig(
        boxed_match_priority=0, try_extract_without_anchor=False, normalization_config=normalization
    )


def _same_size(gold: Any, answer: Any) -> bool:
    """Return False for two small numbers that agree only because both round to zero."""
    if not all(getattr(side, "is_number", False) and getattr(side, "is_real", False) for side in (gold, answer)):
        return True
    left, right = gold.evalf(30), answer.evalf(30)
    largest = max(abs(left), abs(right))
    return bool(largest >= SMALL or largest == 0 or abs(left - right) <= RELATIVE * largest)
