"""Reasons not to believe that math-verify calls two parsed answers equal. Runs inside worker processes only.

math-verify compares numbers by rounding, takes two equations without solutions for the same, and reads the last side
of any equation as the answer. Each function here closes one such gap, so a doubt turns `right` into `wrong` and nothing
ever the other way round; `equal_where_real` is the one exception and has to prove what it says.
"""

from __future__ import annotations

from itertools import product
from typing import Any

DIGITS = 60
"""Significant digits of a numerical evaluation, beyond those that literals span."""
MOST_DIGITS = 20_000
"""The cap on exponents and factorials lets literals span more; evaluation would then take seconds."""
AGREED = 50
"""Of `DIGITS`, how many must agree between two exact numbers."""
SMALL = 1e-3
"""Below this size six decimals say little: see `RELATIVE`."""
RELATIVE = 1e-3
"""How far a small decimal may be from the other number, relative to the larger."""
_GREEK = frozenset(
    """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi
    psi omega
    """.split()  # noqa: SIM905 - two dozen quoted words would not be easier to read
)
MAX_SYMBOLS = 4
"""Variables for which all sign patterns are tried."""


def doubt(gold: Any, answer: Any, *, chains: bool = True) -> str:
    """Return why two answers that passed for equal are not, or "".

    Args:
        gold: The parsed reference.
        answer: The parsed answer.
        chains: Whether the sides of an equation in the answer must fit together, as in `2 + 3 = 5`. Off for
            recorded completions that are searched as prose.
    """
    from sympy import FiniteSet

    if chains:
        equations = (answer,) if not isinstance(answer, FiniteSet) else tuple(answer.args)
        expected = (gold,) if not isinstance(gold, FiniteSet) else tuple(gold.args)
        if not any(_sides(part) for part in expected) and not all(_names_a_value(part) for part in equations):
            return "an equation of another value"
        if any(
            side.is_number and not _equal(side, sides[-1]) for sides in map(_sides, equations) for side in sides[1:-1]
        ):
            return "sides of an equation that differ"
    if _other_names(gold, answer):
        return "another name"
    if chains and _other_assignments(gold, answer):
        return "other values for the names, or values without them"
    return "" if _close(gold, answer) else "equal only by rounding or without a solution"


def says_nothing(value: Any) -> bool:
    """Return whether a relation holds for everything or has no variable: its set is then no interval."""
    from sympy import S
    from sympy.core.relational import Relational

    if not isinstance(value, Relational):
        return False
    if len(value.free_symbols) != 1:
        return not value.free_symbols
    try:
        return bool(value.as_set() in (S.UniversalSet, S.Reals))
    except (NotImplementedError, TypeError, ValueError):
        return False


def _other_names(gold: Any, answer: Any) -> bool:
    """Return whether two answers name different things: `R` and `r`, the symbol `E` and the number e."""
    from sympy import Symbol

    if isinstance(gold, Symbol) and isinstance(answer, Symbol):
        plain = gold.name.lower()
        return gold.name != answer.name and plain == answer.name.lower() and (len(plain) == 1 or plain in _GREEK)
    return isinstance(gold, Symbol) != isinstance(answer, Symbol) and all(
        isinstance(side, Symbol) or getattr(side, "is_number", False) for side in (gold, answer)
    )


def _assigned(value: Any) -> dict[Any, Any]:
    """Return name -> value of several assignments such as `x = 2, y = 3`, in their order; empty for anything else."""
    from sympy import Eq, FiniteSet, Tuple

    if isinstance(value, Eq) and isinstance(value.lhs, Tuple):
        named = list(zip(value.lhs.args, _entries(value.rhs), strict=False))
    else:
        parts = _entries(value)
        several = isinstance(value, FiniteSet | Tuple) and all(isinstance(part, Eq) for part in parts)
        named = [(part.lhs, part.rhs) for part in parts] if several else []
    found = dict(named)
    return found if len(found) == len(named) > 1 else {}


def _entries(value: Any) -> tuple[Any, ...]:
    """Return the entries of a list in the order they were written; `(2, 3)` may have been read as an interval."""
    from sympy import Interval

    if isinstance(value, Interval):
        return (value.start, value.end)
    return tuple(getattr(value, "_unsorted_args", ())) or tuple(getattr(value, "args", ()))


def _other_assignments(gold: Any, answer: Any) -> bool:
    """Return whether several names were given other values, or values without their names and not in their order."""
    expected = _assigned(gold)
    if not expected or len(set(expected.values())) == 1:
        return False
    given = _assigned(answer)
    if given:
        return expected.keys() != given.keys() or not all(_equal(expected[name], given[name]) for name in expected)
    values = _entries(answer)
    return len(values) != len(expected) or not all(map(_equal, expected.values(), values))


def _close(gold: Any, answer: Any) -> bool:
    """Return whether the numbers inside two equal structures are close, and equations have solutions."""
    from sympy import Basic, Interval, MatrixBase, Set, Tuple, Union
    from sympy import FiniteSet as Finite

    left, right = _sides(gold), _sides(answer)
    if left and right:
        return _same_equation(left, right)
    gold, answer = (left[-1] if left else gold), (right[-1] if right else answer)
    if isinstance(gold, MatrixBase) and isinstance(answer, MatrixBase):
        return all(_close(g, a) for g, a in zip(gold.flat(), answer.flat(), strict=False))
    if isinstance(gold, Interval) and isinstance(answer, Interval):
        return _close(gold.start, answer.start) and _close(gold.end, answer.end)
    if isinstance(gold, Union) and isinstance(answer, Union) and len(gold.args) == len(answer.args):
        return all(any(_close(g, a) for a in answer.args) for g in gold.args)
    lists = Finite | Tuple
    if isinstance(gold, lists | Interval) and isinstance(answer, lists | Interval):
        golds, answers = (
            (side.start, side.end) if isinstance(side, Interval) else tuple(side.args) for side in (gold, answer)
        )
        return all(any(_close(g, a) for a in answers) for g in golds)
    if isinstance(gold, Basic) and isinstance(answer, Basic) and not isinstance(gold, Set | Tuple):
        return _same_size(*_at_a_point(gold, answer))
    return True


def _at_a_point(gold: Any, answer: Any) -> tuple[Any, Any]:
    """Return the values of two expressions at one positive point: algebra drops small terms as evaluation does."""
    from sympy import Rational

    if gold.free_symbols != answer.free_symbols:
        # A word and the product of its letters, which math-verify compares by name.
        return gold, answer
    names = sorted(gold.free_symbols, key=str)
    point = {name: Rational(place * place + 7, 3) for place, name in enumerate(names, start=1)}
    return gold.subs(point), answer.subs(point)


def _same_size(gold: Any, answer: Any) -> bool:
    """Return False for two numbers that agree only to the digits that were looked at."""
    from sympy import Float, Integer, Rational, UnevaluatedExpr

    percent = UnevaluatedExpr(Rational(1, 100))
    if any(side.has(percent) or not getattr(side, "is_number", False) for side in (gold, answer)):
        return True
    digits = min(DIGITS + _span(gold) + _span(answer), MOST_DIGITS)
    left, right = (side.evalf(digits, maxn=2 * digits) for side in (gold, answer))
    if not (left.is_Float or left.is_Integer) or not (right.is_Float or right.is_Integer):
        # Complex numbers, infinities and what does not evaluate are compared by math-verify alone.
        return True
    largest = max(abs(left), abs(right))
    if largest == 0:
        return True
    if not (gold.has(Float) or answer.has(Float)):
        return bool(abs(left - right) * Integer(10) ** (digits - DIGITS + AGREED) <= largest)
    return bool(largest >= SMALL or abs(left - right) <= RELATIVE * largest)


def _span(value: Any) -> int:
    """Return a bound on the decimal digits that separate the literals of a number: 10^{40} + 1 spans 40."""
    from sympy import Integer, Pow, factorial

    digits = sum(len(str(abs(part))) for part in value.atoms(Integer))
    for power in value.atoms(Pow):
        exponent = power.exp.doit()
        digits += int(abs(exponent)) * len(str(power.base)) if exponent.is_Integer else 0
    return digits + sum(
        int(n) * len(str(n)) for n in (f.args[0].doit() for f in value.atoms(factorial)) if n.is_Integer
    )


def _sides(value: Any) -> tuple[Any, ...]:
    """Return the sides of an equation or a chain of equations, empty for anything else."""
    from sympy import Eq, Set, Tuple

    chained = () if isinstance(value, Set | Tuple) else getattr(value, "_unsorted_args", ())
    parts = tuple(chained) or (value,)
    if not all(isinstance(part, Eq) for part in parts):
        return ()
    return (parts[0].lhs, *(part.rhs for part in parts))


def _names_a_value(value: Any) -> bool:
    """Return whether an equation says what one thing is: `x = 5` and `2 + 3 = 5` do, `2 x = 5` and `3 = 5` do not."""
    from sympy.core.function import AppliedUndef

    sides = _sides(value)
    if not sides:
        return True
    *others, last = sides
    return all(
        _is_name(side, last) if side.free_symbols or side.atoms(AppliedUndef) else _equal(side, last) for side in others
    )


def _is_name(side: Any, last: Any) -> bool:
    """Return whether a side is made of names alone: `x`, `f(2)`, `AB`, `a/b`, `x + y`, not `2 x`, `x - 1` or `-x`.

    A variable that is on the last side as well is not what is asked for, other than as an argument.
    """
    from sympy import Add, Integer, Number, Symbol
    from sympy.core.function import AppliedUndef

    names = side.replace(lambda part: isinstance(part, AppliedUndef), lambda part: Symbol(f"{part.func.__name__}_"))
    if any(abs(part) != Integer(1) for part in names.atoms(Number)):
        return False
    if any(part.is_Number for total in names.atoms(Add) for part in total.args):
        return False
    if len(names.free_symbols) == 1 and not names.is_Symbol:
        return False
    return not (side.is_Symbol and side in getattr(last, "free_symbols", ()))


def _equal(left: Any, right: Any) -> bool:
    from math_verify import verify

    return bool(verify(left, right, timeout_seconds=None)) and _close(left, right)


def _same_equation(gold: tuple[Any, ...], answer: tuple[Any, ...]) -> bool:
    """Return whether two equations are multiples of each other, or share solutions that exist."""
    from sympy import simplify, solve

    if gold[0] == answer[0] and gold[0].is_Symbol:
        return _close(gold[-1], answer[-1])
    left, right = gold[0] - gold[-1], answer[0] - answer[-1]
    ratio = simplify(left / right) if right != 0 else None
    if ratio is not None and ratio.is_number and ratio.is_nonzero and ratio.is_finite:
        return True
    golds, answers = (solve(side, side.free_symbols, dict=True) for side in (left, right))
    return bool(golds) and all(
        any(
            found.keys() == given.keys() and all(_close(found[name], given[name]) for name in found)
            for given in answers
        )
        for found in golds
    )


def equal_where_real(gold: Any, answer: Any) -> bool:
    r"""Return whether two expressions are the same function of real variables, though algebra alone stopped short.

    `\sqrt{1/n}` and `1/\sqrt{n}` are: they simplify to the same for positive variables, and for every pattern of signs
    either both are real and equal or neither is real. `\sqrt{x^2}` and `x` are not: at -1 both are real and differ.
    """
    from sympy import Expr, Integer, Pow, Rational, Symbol, simplify

    if not (isinstance(gold, Expr) and isinstance(answer, Expr)):
        return False
    names = sorted(gold.free_symbols, key=str)
    if not 0 < len(names) <= MAX_SYMBOLS or set(names) != answer.free_symbols:
        return False
    if not any(p.exp.is_Rational and not p.exp.is_Integer for p in (gold - answer).atoms(Pow)):
        return False
    positive = {name: Symbol(f"{name}_positive", positive=True) for name in names}
    if simplify(gold.subs(positive) - answer.subs(positive)) != 0:
        return False
    sizes = [Rational(prime, 3) for prime in (2, 5, 7, 11)]
    for signs in product((1, -1), repeat=len(names)):
        point = {name: sign * size for name, sign, size in zip(names, signs, sizes, strict=False)}
        left, right = gold.subs(point).evalf(DIGITS), answer.subs(point).evalf(DIGITS)
        if (left.is_real or right.is_real) and not abs(left - right) * Integer(10) ** AGREED <= 1 + abs(left):
            return False
    return True
