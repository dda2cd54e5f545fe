r"""The cheap half of mathematical verification: find the box, normalise, compare numbers exactly.

Nothing here computes with more than one pass over the text, and nothing symbolic is ever evaluated, so every
function is safe on whatever a model wrote. What cannot be decided here goes to `forkpoint.verify.symbolic`,
behind the caps of `over_cap`.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_READ = 4_000_000
"""Characters at the end of a text in which a box is looked for: a model writes a tenth of it, a scan takes 0.3 s."""
MAX_LENGTH = 1000
"""Characters. The longest reference answer of MATH-500, OlympiadBench and Minerva Math has 598."""
MAX_DEPTH = 32
"""Nested brackets. References reach 6; recursive parsers run out of stack in the hundreds."""
MAX_DIGITS = 200
"""Digits in a row. References reach 8; conversion and exact arithmetic are quadratic in the digits."""
MAX_EXPONENT = 10_000
"""References reach 1009. A literal power is evaluated exactly: 9^(9^9) alone has 370 million digits."""
ROUNDING = Fraction(1, 10**6)
"""A decimal equals an exact number that rounds to it at this place."""
SMALL = Fraction(1, 1000)
"""Below this size, six decimals say little."""
RELATIVE = Fraction(1, 1000)
"""How far two small numbers may differ, relative to the larger, before rounding is not believed."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_SEPARATED = r"[1-9]\d{0,2}(?:(?:,|\{,\}|\\,|\{\\,\}|\\!,|,\\!| )\d{3})+"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)(?P<whole>{_SEPARATED}|\d+)?"
    r"(?:\.(?P<part>\d*)(?:\\(?:overline|bar)\s*\{(?P<repeated>\d+)\})?)?"
    r"(?:[eE](?P<exponent>[+-]?\d{1,3})|\s*(?:\\times|\\cdot)\s*10\^(?:\{(?P<power>[+-]?\d{1,3})\}|(?P<digit>\d)))?"
)
_FRACTION = re.compile(
    r"(?P<sign>[+-]?)(?:\\[dtc]?frac\s*(?:\{\s*(?P<a>[+-]?\d+)\s*\}|(?P<a1>\d))\s*"
    r"(?:\{\s*(?P<b>\d+)\s*\}|(?P<b1>\d))|(?P<a2>\d+)/(?P<b2>\d+))"
)
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|textrm|operatorname)\s*\{([^{}]*)\}")
_BOLD = re.compile(r"\*\*([^*]+)\*\*")
_LOOKALIKES = str.maketrans({"\u2212": "-", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u3000": " "})
_NESTED_FACTORIAL = re.compile(r"[({][^()a-zA-Z\\]*[!^][^()a-zA-Z\\]*[)}]\s*!")
_SIZES = re.compile(r"\\(?:left|right|displaystyle|[bB]igg?[lmr]?)(?![a-zA-Z])")
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last complete `\boxed{...}` (or `\fbox{...}`), or None.

    One pass over the last `MAX_READ` characters, so many unclosed boxes cost no more than one, and a text of any length
    no more than one of this length. Escaped braces do not count.

    Args:
        text: A model's answer, of any length.

    Returns:
        What stands between the balanced braces, stripped; the innermost where boxes are nested.

    >>> last_boxed(r"so \boxed{3}, no: \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    >>> last_boxed(r"\boxed{unfinished") is None
    True
    """
    text = text[-MAX_READ:]
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


def unwrapped(answer: str) -> str:
    r"""Return an answer without maths delimiters, bold marks and a final full stop.

    >>> unwrapped(r"$\$18.90$."), unwrapped("**73**")
    ('\\$18.90', '73')
    """
    text = _without_stop(answer.translate(_LOOKALIKES))
    if bold := _BOLD.fullmatch(text):
        text = bold[1].strip()
    for left, right in _WRAPPERS:
        if text.startswith(left) and text.endswith(right) and len(text) >= len(left) + len(right):
            text = text[len(left) : len(text) - len(right)].strip()
    return text


def strip_wrapping(answer: str) -> str:
    r"""Return an answer without delimiters, bold marks, currency signs, `\left` and a final full stop.

    >>> strip_wrapping(r"$\$18.90$."), strip_wrapping(r"\left(1, 2\right)")
    ('18.90', '(1, 2)')
    """
    text = unwrapped(answer).replace("\\$", "").replace("$", "")
    text = _SIZES.sub("", text) if "\\" in text else text
    return _without_stop(text)


def _without_stop(text: str) -> str:
    """Return a text without its final full stop; three are an ellipsis and stay."""
    text = text.strip()
    return text if text.endswith("...") else text.removesuffix(".").strip()


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
    return _without_stop(re.sub(r"\s+", "", text)).replace("\0", " ")


def number(answer: str) -> Fraction | None:
    r"""Return the value of an integer, decimal or simple fraction, exactly, or None for anything else.

    Thousands separators are `,`, `{,}`, `\,`, `\!,` or a blank, and only before groups of exactly three
    digits. `0.\overline{3}` repeats; `4.5e3` and `4.5 \times 10^{3}` are scientific. Literals of more than
    `MAX_DIGITS` digits give None.

    >>> number(r"10{,}000"), number("-5.0"), number(r"\frac{3}{6}"), number("1,22")
    (Fraction(10000, 1), Fraction(-5, 1), Fraction(1, 2), None)
    >>> number(r"0.1\overline{6}"), number("2.5e-1")
    (Fraction(1, 6), Fraction(1, 4))
    """
    text = strip_wrapping(_TEXT.sub(r"\1", answer))
    if not text or sum(character.isdigit() for character in text) > MAX_DIGITS or not text.isascii():
        return None
    if fraction := _FRACTION.fullmatch(text):
        top, bottom = (next(filter(None, fraction.group(*names))) for names in (("a", "a1", "a2"), ("b", "b1", "b2")))
        value = Fraction(int(top), int(bottom)) if int(bottom) else None
        return -value if value is not None and fraction["sign"] == "-" else value
    match = _NUMBER.fullmatch(text)
    if match is None or not (match["whole"] or match["part"] or match["repeated"]):
        return None
    part, repeated = match["part"] or "", match["repeated"] or ""
    value = Fraction(int(re.sub(r"\D", "", match["whole"] or "0") + part), 10 ** len(part))
    if repeated:
        value += Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(part))
    value *= Fraction(10) ** int(match["exponent"] or match["power"] or match["digit"] or 0)
    return -value if match["sign"] == "-" else value


def exactly_equal(gold: str, answer: str) -> bool | None:
    r"""Return whether two answers are equal where that is certain without algebra, else None.

    True for equal normalised strings, and two numbers are always decided, see `same_number`.

    >>> exactly_equal("10,000", "10000.0"), exactly_equal("3", "4"), exactly_equal("1/12", "0.083333")
    (True, False, True)
    >>> exactly_equal("3", r"\sqrt{9}") is None
    True
    """
    if len(gold) > MAX_LENGTH or len(answer) > MAX_LENGTH:
        return None
    plain = normalise(gold)
    if plain and plain == normalise(answer):
        return True
    left, right = number(gold), number(answer)
    if left is None or right is None:
        return None
    return same_number(left, right, rounded=is_decimal(gold) or is_decimal(answer))


def same_number(left: Fraction, right: Fraction, *, rounded: bool) -> bool:
    """Return whether two numbers are equal; where one is a rounded decimal, to six decimals.

    Numbers below `SMALL` must also agree to a share `RELATIVE`: rounded to six decimals they are all zero.

    >>> same_number(Fraction(1, 3), Fraction("0.333333"), rounded=True), same_number(
    ...     Fraction("0.0000001"), Fraction(0), rounded=True
    ... )
    (True, False)
    """
    if left == right or not rounded:
        return left == right
    largest = max(abs(left), abs(right))
    if largest < SMALL and abs(left - right) > RELATIVE * largest:
        return False
    return round(left / ROUNDING) == round(right / ROUNDING)


def is_decimal(answer: str) -> bool:
    r"""Return whether a number is written with a point or an exponent, so that it may have been rounded.

    >>> is_decimal("0.33"), is_decimal("1/3"), is_decimal(r"0.\overline{3}")
    (True, False, False)
    """
    return bool(re.search(r"\.|\d[eE]|10\^", answer)) and "\\overline" not in answer and "\\bar" not in answer


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
    chosen = (int(digits) for digits in re.findall(r"\\[dt]?binom\s*\{?\s*(\d+)", answer))
    if any(n > MAX_EXPONENT for n in chosen) or _NESTED_FACTORIAL.search(answer):
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
