r"""What a parser of mathematics drops or evaluates although it has a meaning of its own: primes, derivatives, gcd.

Such a part becomes a symbol that is named after what it says. So `\gcd(m,n) + 1` equals `1 + \gcd(n,m)` and not 2, and
`y'` is not `y`. Text only but for `opaque_derivatives`, which runs inside worker processes.
"""

from __future__ import annotations

import re
from typing import Any
from zlib import crc32

_PRIMED = re.compile(
    r"(?P<name>\\[a-zA-Z]+(?:\s*\{\s*[a-zA-Z]\s*\})?|[a-zA-Z])"
    r"(?P<primes>(?:\s*')++|\s*\^\s*(?:\\prime(?![a-zA-Z])|\{\s*(?:\\prime\s*)++\}))"
)
_OF_INTEGERS = re.compile(r"\\(?:operatorname\s*\{\s*)?(?P<name>gcd|lcm)\s*\}?\s*\((?P<of>[^()]*[a-zA-Z][^()]*)\)")
_GAUSS = re.compile(r"(?P<open>(?<![a-zA-Z])\[|\\\{)(?P<of>[^\[\](),;]*?)(?:\]|\\\})")
_INVERSE = re.compile(r"(?<![a-zA-Z\\])(?P<name>[fghFGH])\s*\^\s*\{\s*-\s*1\s*\}\s*(?=\()")
_TRANSPOSED = re.compile(
    r"(?P<of>\\[a-zA-Z]+\s*\{[^{}]*\}|[A-Z)\]}])\s*\^\s*\{?\s*(?:T|\\top|\\intercal|\\mathsf\s*\{T\})"
)
# Possessive blanks: where two runs of them meet, every way to share them would be tried.
_TRIG_DEGREES = re.compile(
    r"(?P<function>\\(?:sin|cos|tan|cot|sec|csc)(?:\s*+\^\s*+(?:\d|\{\s*+\d++\s*+\}))?)\s*+(?P<open>[({]?)\s*+"
    r"(?P<angle>\d++(?:\.\d++)?)\s*+(?:\^\s*+(?:\\circ|\{\s*+\\circ\s*+\})|\\degree(?![a-zA-Z])|°)\s*+(?P<close>[)}]?)"
)


def opaque(text: str) -> str:
    r"""Return a text with a symbol in the place of what the parser would misread.

    >>> opaque("y'+2y"), opaque("2^n"), opaque(r"\{x, y\}")
    ('y_{prime}+2y', '2^n', '\\{x, y\\}')
    >>> opaque(r"m - \gcd(m, n)") == opaque(r"m - \gcd(n,m)") != opaque(r"m - \gcd(m,m)")
    True
    """
    text = _PRIMED.sub(lambda found: f"{found['name']}_{{{_count(found['primes'])}}}", text)
    # The parser takes it for Euler's constant, as it does the small letter.
    text = re.sub(r"\\Gamma(?![a-zA-Z(])", "q_{Gamma}", text)
    text = _INVERSE.sub(r"\g<name>_{inverse}", text)
    text = _OF_INTEGERS.sub(lambda found: _symbol(found["name"], *sorted(_bare(found["of"]).split(","))), text)
    return _GAUSS.sub(lambda found: _whole_part(found, text), text)


def trig_degrees(text: str) -> str:
    r"""Return a text in which the argument of a trigonometric function is never in degrees.

    >>> trig_degrees(r"2\sin 10^\circ")
    '2\\sin \\left(\\frac{10\\pi}{180}\\right)'
    """
    return _TRIG_DEGREES.sub(
        lambda found: (
            rf"{found['function']} \left(\frac{{{found['angle']}\pi}}{{180}}\right)"
            if bool(found["open"]) == bool(found["close"])
            else found[0]
        ),
        text,
    )


def transposed(text: str) -> list[str]:
    """Return what is transposed in a text, in order: the parser takes a transpose for what it is of."""
    return [_bare(found["of"]) for found in _TRANSPOSED.finditer(text)]


def crossed(text: str) -> bool:
    r"""Return whether a text multiplies vectors, which the parser takes for numbers.

    >>> crossed(r"\vec{a}\times\vec{b}"), crossed(r"3\vec{a}"), crossed(r"2 \times 10^3")
    (True, False, False)
    """
    return bool(re.search(r"\\(?:vec|mathbf|boldsymbol|bm)(?![a-zA-Z])", text)) and bool(
        re.search(r"\\(?:times|cdot|wedge)(?![a-zA-Z])", text)
    )


def opaque_derivatives(value: Any) -> Any:
    """Return a parsed expression in which the derivative of a name is a symbol: as a number it would be 0."""
    from sympy import Basic, Derivative, Symbol

    if not isinstance(value, Basic) or not value.has(Derivative):
        return value
    named = [part for part in value.atoms(Derivative) if not set(part.variables) & part.expr.free_symbols]
    return value.xreplace({part: Symbol(f"D_{part.expr}_{part.variables}", real=True) for part in named})


def _count(marks: str) -> str:
    count = marks.count("'") + marks.count("\\prime")
    return "prime" if count == 1 else f"prime{count}"


def _whole_part(found: re.Match[str], text: str) -> str:
    r"""Return a symbol for `[x]` and `\{x\}`: not for a set of one thing, nor for brackets around numbers."""
    of = _bare(found["of"])
    alone = found["open"] != "[" and found[0].strip() == text.strip()
    if alone or not re.search(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", of)):
        return found[0]
    return _symbol("whole" if found["open"] == "[" else "part", of)


def _symbol(*names: str) -> str:
    return f" q_{{{crc32(';'.join(names).encode())}}} "


def _bare(text: str) -> str:
    return re.sub(r"\s|\\[,;:! ]|\\left|\\right", "", text)
