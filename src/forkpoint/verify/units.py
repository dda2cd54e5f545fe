r"""Units behind an answer: split off, compared, converted. Text only, nothing symbolic.

A reference without a unit accepts an answer with one (`5` and `5 \text{ cm}`), and the other way round: the problem
has named it. Two units must measure the same thing, and values are converted: 5 km is 5000 m and not 5 m.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A product of powers of what is measured, and how many base units it is."""

    powers: tuple[tuple[str, int], ...]
    """What is measured -> power, sorted; `(("length", 1), ("time", -1))` is a speed."""
    factor: Fraction = Fraction(1)
    """Base units (metre, gram, second, dollar, degree, litre) in one of these."""


_F = Fraction
_TABLE: dict[str, dict[str, Fraction]] = {
    "length": {
        "mm millimeter millimetre": _F(1, 1000), "cm centimeter centimetre": _F(1, 100),
        "dm decimeter decimetre": _F(1, 10), "m meter metre": _F(1), "km kilometer kilometre": _F(1000),
        "in inch inche": _F(254, 10_000), "ft foot feet": _F(3048, 10_000), "yd yard": _F(9144, 10_000),
        "mi mile": _F(1_609_344, 1000),
    },
    "mass": {"mg milligram": _F(1, 1000), "g gram gm": _F(1), "kg kilogram": _F(1000)},
    "time": {
        "ms millisecond": _F(1, 1000), "s sec second": _F(1), "min minute": _F(60), "h hr hour": _F(3600),
        "day": _F(86_400), "week": _F(604_800),
    },
    "money": {"dollar usd": _F(1), "cent": _F(1, 100)},
    "angle": {"degree deg": _F(1)},
    "volume": {"ml milliliter millilitre": _F(1, 1000), "l liter litre": _F(1)},
}  # fmt: skip
_KNOWN = {
    word: (measure, factor)
    for measure, units in _TABLE.items()
    for words, factor in units.items()
    for word in words.split()
}
_NAMED = frozenset(
    "hz khz mhz ghz pa kpa mpa mol rad cal kcal erg ev kev mev kj mj kw kwh mw kv nm um yr year month".split()  # noqa: SIM905
)
"""Units that are compared by name."""
_SYMBOLS = frozenset(word for word in _KNOWN if len(word) <= 2)
_BARE = tuple(sorted((word for word in _KNOWN if len(word) > 1 and word != "in"), key=len, reverse=True))
_RAISED = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_NO_UNITS = frozenset(
    """
    hundred thousand million billion trillion quadrillion dozen score gross lakh crore kilo mega giga percent percentage
    permille ppm ppb half halves third quarter fifth sixth seventh eighth ninth tenth hundredth squared cubed doubled
    tripled halved negated reciprocal inverse inverted raised factorial pi tau over times plus minus or and not no non
    never none is isn if sin cos tan cot csc log exp det max gcd lcm mod modulo base to power root sqrt point negative
    greater less more least most than approximately about zero one two three four five six seven eight nine ten eleven
    twelve twenty thirty forty fifty sixty true false yes wrong infinity incorrect except unless else neither cannot
    impossible versus maybe perhaps possibly excluding
    """.split()  # noqa: SIM905 - a hundred quoted words would not be easier to read
)
"""Words that change a value or deny it: what they stand in is no unit."""

_TEXT = r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d\s*\}|\d))?"
# Possessive, so that blanks in a row can be read in one way only: two ways a blank would be exponential in them.
_BLANK = r"(?:\\[ ,;:!]|~|\s|\\q?quad|/|\\cdot(?![a-zA-Z]))*+"
_LAST_TEXT = re.compile(rf"{_BLANK}(?P<unit>{_TEXT}{_POWER}(?:{_BLANK}{_TEXT}{_POWER})*+)\s*+$")
LONGEST = 120
"""Characters at the end of an answer in which a unit is looked for."""
_PROSE = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mbox)\s*\{")
_LAST_DEGREE = re.compile(r"\s*(?:\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree|°)\s*(?P<scale>[CF]|\\text\{ *[CF]\}|)\s*$")
_LAST_BARE = re.compile(rf"(?<=[\d}})\s])\s*(?P<unit>(?:{'|'.join(_BARE)})(?:es|s)?{_POWER})\s*$")
_LAST_SYMBOL = re.compile(_LAST_BARE.pattern.replace("(?:", f"(?:{'|'.join(sorted(_SYMBOLS))}|", 1))
_CURRENCY = {"\\$": "dollar", "€": "euro", "£": "pound sterling", "¥": "yen"}


def split_unit(answer: str, *, symbols: bool = False) -> tuple[str, Unit | None]:
    r"""Return an answer without the unit at its end (or the currency before it), and the unit.

    Text counts as a unit where it is words and none of them is a number or changes the value, so
    `5 \text{ not}` and `5 \text{ million}` stay whole. `symbols` also takes bare `m`, `g`, `s`, ..., which are
    variables elsewhere.

    >>> split_unit(r"15 \mbox{ cm}^2")[0], split_unit(r"\$5")[1].powers, split_unit(r"5 \text{ million}")
    ('15', (('money', 1),), ('5 \\text{ million}', None))
    """
    text = answer.strip()
    if degree := _LAST_DEGREE.search(text):
        scale = "".join(character for character in degree["scale"] if character in "CF")
        name = f"degree {scale}" if scale else "angle"
        return text[: degree.start()].strip(), Unit(powers=((name, 1),))
    for pattern in (_LAST_TEXT, _LAST_SYMBOL if symbols else _LAST_BARE):
        found = pattern.search(text, max(0, len(text) - LONGEST))
        if found is None or not text[: found.start()].strip():
            continue
        # Upright letters in a formula may be a product; prose is words.
        prose = bool(_PROSE.match(found["unit"])) and _is_quantity(text[: found.start()])
        unit = read_unit(re.sub(_TEXT, r"\1 ", found["unit"]), prose=prose)
        if unit is not None:
            return text[: found.start()].strip(), unit
    for sign, name in _CURRENCY.items():
        if sign in text:
            measure, factor = _KNOWN.get(name, (name, Fraction(1)))
            return text.replace(sign, ""), Unit(powers=((measure, 1),), factor=factor)
    return text, None


def _is_quantity(text: str) -> bool:
    r"""Return whether a text is one number, perhaps after `x =`: words behind a list, a relation or a name say more.

    >>> [_is_quantity(text) for text in (r"x = 3\sqrt{2}", "1,000", "1, 2", "x > 2", "n")]
    [True, True, False, False, False]
    """
    value = re.sub(r"\{,\}|\\[,;!]", "", text.rpartition("=")[2])
    if re.search(r"[<>\[\]∪∩]|\\(?:[lg]eq?|[lg]t|cup|cap|in|to|\{)(?![a-zA-Z])|[,;](?!\d{3}(?!\d))", value):
        return False
    return not re.search(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", value))


def read_unit(words: str, *, prose: bool = True) -> Unit | None:
    r"""Return the unit that some words name, None where they name none. Only prose has units in no table, as apples.

    >>> read_unit("km/h") == read_unit("kilometers per hour"), read_unit("square inches").powers
    (True, (('length', 2),))
    >>> read_unit("or 6") is None, read_unit("x") is None
    (True, True)
    """
    text = words.replace("\\cdot", " ").replace("~", " ").replace("mph", "mile/hour").replace("kmph", "km/h")
    text = re.sub(r"\\[ ,;:!]|\\q?quad", " ", text.replace("²", "^2").replace("³", "^3"))
    text = re.sub(r"\bper\b", "/", re.sub(r"\s*\^\s*", "^", text))
    powers: Counter[str] = Counter()
    factor, side, raised = Fraction(1), 1, 0
    for token in re.findall(r"/|[^\W\d_]+(?:\^(?:\{\s*-?\d\s*\}|\d))?|\S", text):
        word, _, exponent = token.partition("^")
        if token == "/":  # noqa: S105 - a word of the answer
            side = -1
        elif word in _RAISED:
            raised = _RAISED[word]
        elif not _NO_UNITS.isdisjoint(_forms(word)) or (measured := _measured(word, prose)) is None:
            return None
        else:
            times = side * (int(exponent.strip("{} ")) if exponent else raised or 1)
            powers[measured[0]] += times
            factor *= measured[1] ** times
            raised = 0
    return Unit(powers=tuple(sorted(powers.items())), factor=factor) if powers else None


def conversion(gold: Unit | None, answer: Unit | None) -> Fraction | None:
    """Return what a value in the answer's unit is multiplied with, None where the units do not go together.

    >>> conversion(read_unit("m"), read_unit("km")), conversion(read_unit("cm"), read_unit("cm^2"))
    (Fraction(1000, 1), None)
    """
    if gold is None or answer is None:
        return Fraction(1)
    return answer.factor / gold.factor if gold.powers == answer.powers else None


def field_unit(text: str | None) -> Unit | None:
    r"""Return the unit a data set names beside a reference, such as `km/h`, `$cm^2$` or `^{\circ}`.

    >>> field_unit("$cm^2$").powers, field_unit("^{\\circ}").powers, field_unit(None)
    ((('length', 2),), (('angle', 1),), None)
    """
    plain = (text or "").replace("$", "").strip()
    if not plain:
        return None
    return split_unit(f"1{plain}")[1] or read_unit(re.sub(r"[{}]|\\text|\\mathrm", "", plain)) if plain != "%" else None


def _forms(word: str) -> tuple[str, ...]:
    """Return a word in small letters, as it stands and without the endings of a plural."""
    lower = word.lower()
    return lower, lower.removesuffix("s"), lower.removesuffix("es")


def _measured(word: str, prose: bool) -> tuple[str, Fraction] | None:
    """Return what a word measures and its factor; words that are in no table measure themselves."""
    if word in _SYMBOLS:
        return _KNOWN[word]
    lower, *_ = forms = _forms(word)
    for form in forms:
        if form in _KNOWN and (len(form) > 2 or form == word):
            return _KNOWN[form]
    # Two letters may be a product of variables, and `\text{π}` is a number.
    if lower in _NAMED or (prose and len(word) > 2 and word.isalpha()):
        return lower.removesuffix("s"), Fraction(1)
    return None
