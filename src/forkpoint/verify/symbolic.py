r"""Equality of mathematical answers by algebra. Runs inside a worker process of `VerifierPool` only.

math-verify is used without its own timeouts (they rely on SIGALRM in the main thread): the pool kills a worker that is
late. Its repair of malformed operators and its removal of units are off: what TeX itself accepts (`\frac12`, `\sqrt2`)
and units are read by `forkpoint.verify.notation` and `forkpoint.verify.units`. What it calls equal must also pass
`forkpoint.verify.believe`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import Any

from forkpoint.verify.believe import DIGITS, doubt, equal_where_real, says_nothing
from forkpoint.verify.exact import is_decimal, number
from forkpoint.verify.notation import explicit_arguments, explicit_products
from forkpoint.verify.opaque import opaque, opaque_derivatives
from forkpoint.verify.rules import Finding, Rule, exact_leaf, find

_PERCENT = re.compile(r"\\(?:text|mbox|mathrm)\s*\{\s*(?:percent|percentage|pct|\\?%)\s*\}")
PARSED = 4096
"""Parsed answers kept by a worker: the answers to one problem share its reference."""


def compare(item: Mapping[str, Any]) -> dict[str, str]:
    """Compare an answer with its reference.

    Args:
        item: `gold` and `answer`, extracted; `rule`, the fields of a `forkpoint.verify.rules.Rule` (all optional); or
            `search` in its place, the settings of `searched`.

    Returns:
        `verdict` (`right`, `wrong`, `unjudged`) and `detail`.
    """
    try:
        if "search" in item:
            verdict, why = searched(item["gold"], item["answer"], **item["search"])
        else:
            verdict, why = find(item["gold"], item["answer"], Rule(**item.get("rule", {})), symbolic_leaf)
    except (MemoryError, RecursionError):
        return _too_large(item)
    except Exception as error:
        # sympy raises exceptions of many kinds on expressions of different kinds; those are not equal.
        return {"verdict": "wrong", "detail": f"not comparable ({type(error).__name__})"}
    return {"verdict": verdict, "detail": why}


def _too_large(item: Mapping[str, Any]) -> dict[str, str]:
    """Return the verdict where memory ran out: on the answer if the reference alone can be read."""
    try:
        if "search" not in item and parsed(item["gold"]) is not None:
            return {"verdict": "wrong", "detail": "too large to evaluate"}
    except (MemoryError, RecursionError):
        pass
    return {"verdict": "unjudged", "detail": "out of memory"}


WARM_UP = (
    (r"\frac{x+1}{2}", r"\frac{1+x}{2}"),
    (r"\{1, \sqrt{2}\}", r"\sqrt{2}, 1+0"),
    (r"(-\infty, x) \cup [3, 4)", r"[3, 4) \cup (-\infty, 0+x)"),
    ("y=2x+1", "2x-y+1=0"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ x \end{pmatrix}"),
)
"""The parser learns its tables with use; these shapes teach it what most answers need."""


def prepare() -> None:
    """Import and warm up the parser, so that the first deadline does not pay for it."""
    for gold, answer in WARM_UP:
        compare({"gold": gold, "answer": answer})


def symbolic_leaf(gold: str, answer: str, rule: Rule) -> Finding:
    """Decide whether two expressions are equal in value, by algebra where numbers do not settle it."""
    from math_verify import verify

    found = exact_leaf(gold, answer, rule)
    if found.verdict != "open":
        return found
    expected, given = parsed(gold), parsed(answer)
    if expected is None:
        return Finding("unjudged", "unreadable reference")
    if given is None:
        return Finding("wrong", "unreadable answer")
    given = _names_of(given, expected)
    if rule.error:
        return within(expected, given, rule.error)
    if rule.kind == "interval" and says_nothing(given) and not says_nothing(expected):
        return Finding("wrong", "a relation that says nothing")
    fits = OF_KIND.get(rule.kind)
    if fits is not None and fits(expected) and not fits(given):
        return Finding("wrong", f"no {rule.kind}")
    # The order matters: an assignment or interval is unfolded on the side of the answer alone.
    equal = verify(
        expected,
        given,
        timeout_seconds=None,
        raise_on_error=True,
        allow_set_relation_comp=rule.kind == "interval",
    )
    if equal:
        why = doubt(expected, given)
        return Finding("wrong", why) if why else Finding("right")
    return Finding("right" if equal_where_real(expected, given) else "wrong")


def within(gold: Any, answer: Any, error: str) -> Finding:
    """Compare two numbers with an absolute tolerance: |answer - gold| <= error."""
    tolerance = number(error)
    left, right = (_value(side) for side in (gold, answer))
    if tolerance is None or left is None:
        return Finding("unjudged", "unreadable reference or tolerance")
    if right is None:
        return Finding("wrong", "no number")
    distance = abs(left - right) * tolerance.denominator
    return Finding("right" if distance <= abs(tolerance.numerator) else "wrong")


def searched(
    gold: str,
    answer: str,
    *,
    targets: tuple[str, ...] = ("latex", "expr"),
    precision: int = 6,
    strict: bool = True,
    set_relations: bool = False,
) -> Finding:
    """Compare whole texts as math-verify's own tests do: search both for an answer, box or not.

    For recorded completions under someone else's convention, never for rewards: prose can be made to match. What
    passes must still be more than equal by rounding.

    Args:
        gold: The reference text.
        answer: The completion.
        targets: Which of `latex` and `expr` to look for.
        precision: Decimals to which numbers are rounded.
        strict: Whether names of variables count, and sets differ from tuples.
        set_relations: Whether an inequality may stand for a set that the reference writes as an interval.
    """
    from math_verify import parse, verify

    bare = re.sub(r"\*\*([^*\n]+)\*\*", r"\1", answer)
    configs = [_search_configs()[target] for target in targets]
    expected, given = (parse(text, extraction_config=configs, parsing_timeout=None) for text in (gold, bare))
    if not expected:
        return Finding("unjudged", "unreadable reference")
    for left in expected:
        for right in given:
            equal = verify(
                left,
                right,
                float_rounding=precision,
                strict=strict,
                allow_set_relation_comp=set_relations,
                timeout_seconds=None,
            )
            if equal and (isinstance(left, str) or not doubt(left, right, chains=False)):
                return Finding("right")
    return Finding("wrong", "" if given else "no answer found")


@lru_cache(maxsize=PARSED)
def parsed(text: str) -> Any:
    """Return a parsed expression, None where it cannot be read.

    Integers, fractions and decimals are built from their exact value, everything else is LaTeX.
    """
    import sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy, normalize_latex
    from math_verify.grader import should_treat_as_complex

    value = number(text)
    if value is not None:
        exact = sympy.Rational(value.numerator, value.denominator)
        return sympy.Float(exact, 15) if is_decimal(text) else exact
    plain = _PERCENT.sub(r"\\%", explicit_products(opaque(explicit_arguments(text))))
    latex = normalize_latex(plain, config=_normalization())
    try:
        return opaque_derivatives(
            latex2sympy(
                latex,
                is_real=not should_treat_as_complex(latex),
                convert_degrees=False,
                normalization_config=None,
                # `M` and `m` are two things.
                conversion_config=ConversionConfig(lowercase_symbols=False),
            )
        )
    except (MemoryError, RecursionError):
        raise
    except Exception:
        # The grammar refuses in exceptions of many kinds.
        return None


OF_KIND: Mapping[str, Callable[[Any], bool]] = {
    "number": lambda value: _value(value) is not None,
    "interval": lambda value: _is_region(value),
    "equation": lambda value: type(value).__name__ in ("Equality", "And"),
}
"""Kind -> whether a parsed value is of it. An answer must be where its reference is."""


def _names_of(value: Any, other: Any) -> Any:
    r"""Return a value with the other's symbols of the same names: those of `5i` and `5 \cdot i` differ in kind."""
    from sympy import Basic

    if not (isinstance(value, Basic) and isinstance(other, Basic)):
        return value
    known = {name.name: name for name in other.free_symbols}
    changed = {name: known[name.name] for name in value.free_symbols if known.get(name.name, name) != name}
    return value.subs(changed) if changed else value


def _value(value: Any) -> Any:
    """Return a real number as a float of `DIGITS` digits, of an assignment its right side; None for anything else."""
    from sympy import Eq, Float

    if isinstance(value, Eq) and value.lhs.is_Symbol:
        value = value.rhs
    if not getattr(value, "is_number", False) or not hasattr(value, "evalf"):
        return None
    found = value.doit().evalf(DIGITS)
    return Float(found, DIGITS) if getattr(found, "is_real", False) and found.is_finite else None


def _is_region(value: Any) -> bool:
    from sympy import Eq, FiniteSet, Set
    from sympy.core.relational import Relational

    value = value.rhs if isinstance(value, Eq) else value
    parts = getattr(value, "_unsorted_args", ())
    if parts and not isinstance(value, Set):
        return all(isinstance(part, Relational) for part in parts)
    return isinstance(value, Set | Relational) and not isinstance(value, FiniteSet)


@cache
def _normalization() -> Any:
    """Return what is cleaned in LaTeX before parsing: no repair of operators, no removal of units."""
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig

    return NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=False, nits=True, boxed="none", equations=False
    )


@cache
def _search_configs() -> Mapping[str, Any]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig

    return {"latex": LatexExtractionConfig(boxed_match_priority=0), "expr": ExprExtractionConfig()}
