r"""The cheap half of mathematical verification: find the box, normalise, compare numbers exactly.

Nothing here computes with more than one pass over the text, and nothing symbolic is ever evaluated, so every
function is safe on whatever a model wrote. What cannot be decided here goes to `forkpoint.verify.symbolic`,
behind the caps of `over_cap`.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_LENGTH = 1000
"""Characters. The longest reference answer of MATH-500, OlympiadBench and Minerva Math has 598."""
MAX_DEPTH = 32
"""Nested brackets. References reach 6; recursive parsers run out of stack in the hundreds."""
MAX_DIGITS = 200
"""Digits in a row. References reach 8; conversion and exact arithmetic are quadratic in the digits."""
MAX_EXPONENT = 10_000
"""References reach 1009. A literal power is evaluated exactly: 9^(9^9) alone has 370 million digits."""
ROUNDING = Fraction(1, 10**6)
"""math-verify rounds to six decimals, so literals further apart than this are never equal to it."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_SEPARATED = r"[1-9]\d{0,2}(?:(?:,|\{,\}|\\,|\{\\,\}|\\!,|,\\!| )\d{3})+"
_NUMBER = re.compile(rf"(?P<sign>[+-]?)(?P<whole>{_SEPARATED}|\d+)?(?:\.(?P<part>\d*))?")
_FRACTION = re.compile(
    r"(?P<sign>[+-]?)(?:\\[dtc]?frac\s*(?:\{\s*(?P<a>[+-]?\d+)\s*\}|(?P<a1>\d))\s*"
    r"(?:\{\s*(?P<b>\d+)\s*\}|(?P<b1>\d))|(?P<a2>\d+)/(?P<b2>\d+))"
)
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|textrm|operatorname)\s*\{([^{}]*)\}")
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last complete `\boxed{...}` (or `\fbox{...}`), or None.

    One pass over the text, so many unclosed boxes cost no more than one. Escaped braces do not count.

    Args:
        text: A model's answer, of any length.

    Returns:
        What stands between the balanced braces, stripped; the innermost where boxes are nested.

    >>> last_boxed(r"so \boxed{3}, no: \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    >>> last_boxed(r"\boxed{unfinished") is None
    True
    """
    open_braces: list[int] = []
    best: tuple[int, int] | None = None
    for match in _BOX.finditer(text):
        brace = match.group()
        if brace == "}":
            start = open_braces.pop() if open_braces else -1
            if start >= 0 and (best is None or start > best[0]):
                best = (start, match.start())
        elif brace == "{" or brace.startswith(("\\boxed", "\\fbox")):
            # A box remembers where its content starts, an ordinary brace only that it is open.
            open_braces.append(-1 if brace == "{" else match.end())
    return None if best is None else text[best[0] : best[1]].strip()


def strip_wrapping(answer: str) -> str:
    r"""Return an answer without maths delimiters, currency signs, spacing commands and a final full stop.

    >>> strip_wrapping(r"$\$18.90$.")
    '18.90'
    """
    text = answer.strip().replace("\u2212", "-").removesuffix(".").strip()
    for left, right in _WRAPPERS:
        if text.startswith(left) and text.endswith(right) and len(text) >= len(left) + len(right):
            text = text[len(left) : len(text) - len(right)].strip()
    text = text.replace("\\$", "").replace("$", "")
    for command in ("\\left", "\\right", "\\displaystyle"):
        text = re.sub(re.escape(command) + r"(?![a-zA-Z])", "", text)
    return text.strip().removesuffix(".").strip()


def normalise(answer: str) -> str:
    r"""Return the form in which two spellings of one answer become the same string.

    Delimiters, `\text{}`, spacing commands and blanks go; `\dfrac` and `\tfrac` become `\frac`. Digits are
    never joined across a blank, so `3 5` does not become 35.

    >>> normalise(r"$ \text{Even} $"), normalise(r"\dfrac{1}{2}"), normalise("3 5")
    ('Even', '\\frac{1}{2}', '3 5')
    """
    text = _TEXT.sub(r"\1", strip_wrapping(answer))
    text = re.sub(r"\\[dtc]frac(?![a-zA-Z])", r"\\frac", text)
    text = re.sub(r"(?<!\\)\\[,!;: ]|~", " ", text)
    # A command needs the blank that ends it: `\pi r` is not `\pir`.
    text = re.sub(r"\\([a-zA-Z]+)\s+(?=[a-zA-Z])", r"\\\1{}", text)
    text = re.sub(r"(?<=\d)\s+(?=\d)", "\0", text)
    return re.sub(r"\s+", "", text).replace("\0", " ").removesuffix(".")


def number(answer: str) -> Fraction | None:
    r"""Return the value of an integer, decimal or simple fraction, exactly, or None for anything else.

    Thousands separators are `,`, `{,}`, `\,`, `\!,` or a blank, and only before groups of exactly three
    digits. Literals of more than `MAX_DIGITS` digits give None.

    >>> number(r"10{,}000"), number("-5.0"), number(r"\frac{3}{6}"), number("1,22")
    (Fraction(10000, 1), Fraction(-5, 1), Fraction(1, 2), None)
    """
    text = strip_wrapping(_TEXT.sub(r"\1", answer))
    if not text or sum(character.isdigit() for character in text) > MAX_DIGITS or not text.isascii():
        return None
    if fraction := _FRACTION.fullmatch(text):
        top, bottom = (next(filter(None, fraction.group(*names))) for names in (("a", "a1", "a2"), ("b", "b1", "b2")))
        value = Fraction(int(top), int(bottom)) if int(bottom) else None
        return -value if value is not None and fraction["sign"] == "-" else value
    match = _NUMBER.fullmatch(text)
    if match is None or not (match["whole"] or match["part"]):
        return None
    whole = re.sub(r"\D", "", match["whole"] or "0")
    value = Fraction(f"{whole}.{match['part'] or 0}")
    return -value if match["sign"] == "-" else value


def exactly_equal(gold: str, answer: str) -> bool | None:
    """Return whether two answers are equal where that is certain without algebra, else None.

    True for equal normalised strings and equal numbers, False for numbers further apart than `ROUNDING`.
    Numbers closer than that are left open: rounding is a matter for the symbolic comparison.

    >>> exactly_equal("10,000", "10000.0"), exactly_equal("3", "4"), exactly_equal("1/12", "0.083333")
    (True, False, None)
    """
    if len(gold) > MAX_LENGTH or len(answer) > MAX_LENGTH:
        return None
    plain = normalise(gold)
    if plain and plain == normalise(answer):
        return True
    left, right = number(gold), number(answer)
    if left is None or right is None:
        return None
    if left == right:
        return True
    return False if abs(left - right) > ROUNDING else None


def over_cap(answer: str) -> str | None:
    r"""Return which cap an answer exceeds (`length`, `digits`, `depth`, `exponent`), or None.

    Checked before anything symbolic sees the text, because one short line can ask for unbounded work.

    >>> over_cap("9^{9^{9^{9}}}"), over_cap("2^{2^{3}}"), over_cap("x^{1009}")
    ('exponent', None, None)
    """
    if len(answer) > MAX_LENGTH:
        return "length"
    if re.search(rf"\d{{{MAX_DIGITS + 1}}}", answer):
        return "digits"
    depth = deepest = 0
    for character in answer:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        return "depth"
    powers = (_operand(answer, match.end()) for match in re.finditer(r"\^|\*\*", answer))
    factorials = (int(digits) for digits in re.findall(r"(\d+)[\s})]*!", answer))
    if any(_tower(power) > MAX_EXPONENT for power in powers) or any(n > MAX_EXPONENT for n in factorials):
        return "exponent"
    return None


def _operand(text: str, start: int) -> str:
    """Return the exponent that starts at a position: a bracketed group, or digits, or one character."""
    while start < len(text) and text[start].isspace():
        start += 1
    if start < len(text) and text[start] in "{(":
        depth = 0
        for end in range(start, len(text)):
            depth += (text[end] in "{(") - (text[end] in "})")
            if depth == 0:
                return text[start + 1 : end]
        return text[start + 1 :]
    match = re.compile(r"[+-]?\d+|.?", re.DOTALL).match(text, start)
    return match.group() if match else ""


def _tower(operand: str) -> float:
    """Return a bound on an exponent: its largest literal, or the value of a tower of literals."""
    literals = [min(int(digits), 10**9) for digits in re.findall(r"\d+", operand)]
    if "^" not in operand and "**" not in operand:
        return max(literals, default=0)
    value = 1
    for base in reversed(literals):
        # 10**9 stands for "far above the cap"; two to the thirtieth already passes it.
        value = min(base**value, 10**9) if base < 2 or value < 30 else 10**9
    return value
