r"""What makes an answer right: one function a kind of answer, chosen by name, the same in every process.

A rule first uses text alone: equal spelling, units, brackets, bases, what no parser reads safely. What is left of a
comparison goes to a *leaf*, a function of two plain expressions: `exact_leaf` here decides numbers and leaves the rest
open, `forkpoint.verify.symbolic.symbolic_leaf` decides by algebra inside a worker process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

from forkpoint.verify.exact import MAX_LENGTH, exactly_equal, normalise, number, over_cap, strip_wrapping, unwrapped
from forkpoint.verify.notation import based, bracketed, choice_letters, parts, same_brackets, unreadable
from forkpoint.verify.opaque import crossed, transposed, trig_degrees
from forkpoint.verify.units import conversion, field_unit, split_unit

MAX_PARTS = 64
"""Answers in a list. The longest reference of OlympiadBench has 16; comparing all pairs is quadratic."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How one problem's answer is compared."""

    kind: str = "expression"
    """A name in `KINDS`."""
    several: bool = False
    """The reference is a list of answers in any order; all are needed and no other may be there."""
    error: str = ""
    """Absolute tolerance, such as `1e-1`; one for each reference, with commas, where there are several."""
    unit: str = ""
    """Unit of the reference, where the data set names it beside the number."""


class Finding(NamedTuple):
    """What a comparison found: `right`, `wrong`, `unjudged`, or `open` where it needs algebra; and why."""

    verdict: str
    why: str = ""


Leaf = Callable[[str, str, Rule], Finding]
RIGHT, WRONG, OPEN = Finding("right"), Finding("wrong"), Finding("open")


def find(gold: str, answer: str, rule: Rule, leaf: Leaf) -> Finding:
    r"""Compare an answer with its reference by a rule.

    >>> find("5 \\text{ km}", "5000 m", Rule(), exact_leaf).verdict, find("5", "5 m^2", Rule(unit="m"), exact_leaf)
    ('right', Finding(verdict='wrong', why='another unit'))
    >>> find("1, 2", r"2 \text{ and } 1", Rule(several=True), exact_leaf).verdict
    'right'
    """
    return several(gold, answer, rule, leaf) if rule.several else KINDS[rule.kind](gold, answer, rule, leaf)


def expression(gold: str, answer: str, rule: Rule, leaf: Leaf) -> Finding:
    """Accept what is equal in value: spelling, units and order of terms do not count. Brackets, bases do."""
    if _same(gold, answer):
        return RIGHT
    if over := _over(gold, answer):
        return over
    if "%" in rule.unit:
        # The data set names the unit, so the answer may repeat it.
        gold, answer = (re.sub(r"\s*\\?%\s*$", "", strip_wrapping(text)) for text in (gold, answer))
    gold, answer = trig_degrees(gold), trig_degrees(answer)
    left, gold_unit = split_unit(unwrapped(gold))
    gold_unit = gold_unit or field_unit(rule.unit)
    right, answer_unit = split_unit(unwrapped(answer), symbols=gold_unit is not None)
    ratio = conversion(gold_unit, answer_unit)
    if ratio is None or (gold_unit and "%" not in rule.unit and right.endswith("%")):
        return Finding("wrong", "another unit")
    left, right = strip_wrapping(left), strip_wrapping(right)
    if (base := based(right)) or based(left):
        return _same_base(left, right, base)
    left, right = _bare_value(left, right), _bare_value(right, left)
    if number(left) is None and (what := unreadable(left)):
        return Finding("unjudged", f"reference with {what}")
    if number(right) is None and (what := unreadable(right)):
        return Finding("wrong", what)
    if not same_brackets(left, right):
        return Finding("wrong", "other brackets")
    if _primes(left) != _primes(right):
        return Finding("wrong", "other primes")
    if transposed(left) != transposed(right):
        return Finding("wrong", "other transposes")
    if crossed(left) or crossed(right):
        return Finding("wrong", "vectors multiplied in another way")
    return leaf(left, _times(ratio, right), rule)


def interval(gold: str, answer: str, rule: Rule, leaf: Leaf) -> Finding:
    r"""Accept intervals, unions and inequalities that are the same set; a list of end points is refused.

    >>> interval("(1,2)", "1, 2", Rule(kind="interval"), exact_leaf)
    Finding(verdict='wrong', why='no interval')
    """
    if over := _over(gold, answer):
        return RIGHT if _same(gold, answer) else over
    looks = re.search(r"[(\[]|[<>]|\\(?:cup|cap|le|ge|lt|gt|leq|geq|mathbb|infty|emptyset|setminus|\{)", answer)
    return expression(gold, answer, rule, leaf) if looks or _same(gold, answer) else Finding("wrong", "no interval")


def ordered(gold: str, answer: str, rule: Rule, leaf: Leaf) -> Finding:
    r"""Accept a tuple with equal entries in the same order; without brackets the order is not stated.

    >>> ordered("(1,2)", "1,2", Rule(kind="tuple"), exact_leaf), ordered("(1,2)", "(1, 2)", Rule(), exact_leaf).verdict
    (Finding(verdict='wrong', why='no tuple'), 'right')
    """
    if over := _over(gold, answer):
        return RIGHT if _same(gold, answer) else over
    right = bracketed(strip_wrapping(answer).rpartition("=")[2].strip())
    if not bracketed(strip_wrapping(gold)) and len(parts(gold)) > 1 and "=" not in gold + answer:
        # A reference without brackets has an order all the same.
        gold, answer = f"({strip_wrapping(gold)})", strip_wrapping(answer) if right else f"({strip_wrapping(answer)})"
        right = bracketed(answer)
    if bracketed(strip_wrapping(gold)) and (right is None or right[0] == "\\{"):
        return Finding("wrong", "no tuple")
    return expression(gold, answer, rule, leaf)


def equation(gold: str, answer: str, rule: Rule, leaf: Leaf) -> Finding:
    """Accept an equation with the same solutions; a bare right-hand side is refused where the reference has both.

    >>> equation("y=2x", "2x", Rule(kind="equation"), exact_leaf)
    Finding(verdict='wrong', why='no equation')
    """
    if "=" in gold and "=" not in answer:
        return Finding("wrong", "no equation")
    return expression(gold, answer, rule, leaf)


def choice(gold: str, answer: str, rule: Rule, leaf: Leaf) -> Finding:
    r"""Accept the same letter, or the same letters in any order where the reference has several.

    The letter stands alone, in brackets, or before its option's text: `B`, `(B)`, `\textbf{(B)}~7`, `B. 7`.

    >>> [choice("(B)", a, Rule(), exact_leaf).verdict for a in ("b", r"\textbf{(B)}~7", "A or B", "7")]
    ['right', 'right', 'wrong', 'wrong']
    """
    if over := _over(gold, answer):
        return over
    expected, given = choice_letters(gold), choice_letters(answer)
    if not expected:
        return Finding("unjudged", "reference is no choice letter")
    if not given:
        return Finding("wrong", "no choice letter")
    return RIGHT if given == expected else WRONG


def exact(gold: str, answer: str, rule: Rule, leaf: Leaf) -> Finding:
    """Accept equal normalised text and equal numbers; nothing is computed."""
    return RIGHT if exactly_equal(gold, answer) else WRONG


def string(gold: str, answer: str, rule: Rule, leaf: Leaf) -> Finding:
    """Accept the same characters, blanks around them aside."""
    return RIGHT if gold.strip() == answer.strip() else WRONG


def several(gold: str, answer: str, rule: Rule, leaf: Leaf) -> Finding:
    r"""Accept a list that holds every reference exactly once, in any order, and nothing else.

    Repetitions of one spelling count once. With `\pm` on either side the lists are compared as sets.

    >>> several("1,2", "2,1", Rule(), exact_leaf).verdict, several("1,2", "1,2,3", Rule(), exact_leaf)
    ('right', Finding(verdict='wrong', why='3 answers for 2'))
    """
    one = replace(rule, several=False)
    if _same(gold, answer):
        return RIGHT
    if over := _over(gold, answer):
        return over
    if "\\pm" in gold + answer:
        return KINDS[rule.kind](gold, answer, one, leaf)
    golds, answers = (list({normalise(part): part for part in parts(text)}.values()) for text in (gold, answer))
    if len(golds) == 1 and rule.kind == "number" and (inside := bracketed(golds[0])):
        # A few references list numbers in brackets; the answer may then do so as well.
        golds, alone = parts(inside[1]), bracketed(answers[0]) if len(answers) == 1 else None
        answers = parts(alone[1]) if alone else answers
    if len(golds) > MAX_PARTS:
        return Finding("unjudged", "reference with too many parts")
    if len(golds) != len(answers):
        return Finding("wrong", f"{len(answers)} answers for {len(golds)}")
    errors = [part.strip() for part in rule.error.split(",")] if rule.error else [""]
    if len(errors) not in (1, len(golds)):
        return Finding("unjudged", f"{len(errors)} tolerances for {len(golds)} references")
    rows = [(g, replace(one, error=errors[i % len(errors)])) for i, g in enumerate(golds)]
    if not rule.error:
        # Pairs that text settles leave the table before anything expensive is compared.
        rows, answers = _without_twins(rows, answers)
    found = [[KINDS[rule.kind](g, a, each, leaf).verdict for a in answers] for g, each in rows]
    return _matched(found)


def _without_twins(rows: list[tuple[str, Rule]], answers: list[str]) -> tuple[list[tuple[str, Rule]], list[str]]:
    """Return references and answers without those that are the same by text or as exact numbers, pair by pair."""
    left, kept = list(answers), []
    for gold, rule in rows:
        twin = next((a for a in left if KINDS[rule.kind](gold, a, rule, exact_leaf).verdict == "right"), None)
        if twin is None:
            kept.append((gold, rule))
        else:
            left.remove(twin)
    return kept, left


KINDS: Mapping[str, Callable[[str, str, Rule, Leaf], Finding]] = {
    "expression": expression,
    "number": expression,
    "interval": interval,
    "tuple": ordered,
    "equation": equation,
    "choice": choice,
    "exact": exact,
    "string": string,
}
"""Name -> comparison. `number` differs in the leaf: what has a variable, or is a set, is refused there."""


def exact_leaf(gold: str, answer: str, rule: Rule) -> Finding:
    """Decide two numbers, exactly or within the tolerance; leave everything else open."""
    left, right = number(gold), number(answer)
    if rule.error and left is not None and right is not None:
        tolerance = number(rule.error)
        if tolerance is None:
            return Finding("unjudged", "unreadable tolerance")
        return RIGHT if abs(left - right) <= abs(tolerance) else WRONG
    equal = exactly_equal(gold, answer)
    if equal is None:
        equal = _equal_entries(gold, answer)
    return OPEN if equal is None else RIGHT if equal else WRONG


def _equal_entries(gold: str, answer: str) -> bool | None:
    """Return whether two tuples or intervals of numbers in the same brackets are equal, None for anything else."""
    left, right = bracketed(gold), bracketed(answer)
    if not left or not right or left[0] == "\\{" or (left[0], left[2]) != (right[0], right[2]):
        return None
    golds, answers = parts(left[1]), parts(right[1])
    if len(golds) < 2 or any(number(entry) is None for entry in golds + answers):
        return None
    return len(golds) == len(answers) and all(map(exactly_equal, golds, answers))


def _over(gold: str, answer: str) -> Finding | None:
    """Return the finding for a text that is over a cap; parsers must not see it."""
    if over := over_cap(gold):
        return Finding("unjudged", f"reference {over} over the cap")
    if over := over_cap(answer):
        return Finding("wrong", f"{over} over the cap")
    return None


def _same(gold: str, answer: str) -> bool:
    if max(len(gold), len(answer)) > MAX_LENGTH:
        return False
    plain = normalise(gold)
    return bool(plain) and plain == normalise(answer)


def _same_base(gold: str, answer: str, answer_base: tuple[str, int] | None) -> Finding:
    """Compare numbers of which one at least states its base. The problem may have named the reference's."""
    gold_base = based(gold)
    left = gold_base or (normalise(gold).lstrip("0") or "0", 10)
    right = answer_base or (normalise(answer).lstrip("0") or "0", left[1])
    return RIGHT if left == right else Finding("wrong", "another number or base")


def _primes(text: str) -> int:
    """Count quotes after a value, which the parser drops."""
    return len(re.findall(r"(?<=[\d)}\]'\"])\s*(?:['\"]|\^\s*\{?\s*\\prime)", text))


def _bare_value(text: str, other: str) -> str:
    """Return the number behind `x =`, where the other side has no equation: its separators need no parser."""
    named = re.fullmatch(r"\s*\\?[a-zA-Z]+\s*=([^=]+)", text)
    return named[1].strip() if named and "=" not in other and number(named[1]) is not None else text


def _times(ratio: Fraction, answer: str) -> str:
    """Return an answer multiplied with a conversion factor, as text."""
    if ratio == 1:
        return answer
    value = number(answer)
    if value is not None:
        value *= ratio
        return f"{value.numerator}/{value.denominator}"
    return rf"\frac{{{ratio.numerator}}}{{{ratio.denominator}}} \cdot ({answer.rpartition('=')[2]})"


def _matched(rows: list[list[str]]) -> Finding:
    """Return whether references and answers pair up one to one, from the verdict on every pair."""
    if any("unjudged" in row for row in rows):
        return Finding("unjudged", "a reference that cannot be judged")
    if _pairs(rows, {"right"}):
        return RIGHT
    return OPEN if _pairs(rows, {"right", "open"}) else Finding("wrong", "the lists differ")


def _pairs(rows: list[list[str]], allowed: set[str]) -> bool:
    """Return whether every row can take a column of its own among the allowed (Kuhn's augmenting paths)."""
    taken: dict[int, int] = {}

    def place(row: int, seen: set[int]) -> bool:
        for column, verdict in enumerate(rows[row]):
            if verdict in allowed and column not in seen:
                seen.add(column)
                if column not in taken or place(taken[column], seen):
                    taken[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(rows)))
