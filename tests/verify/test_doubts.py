"""Wrong answers that a lenient comparison takes for right, one test each, and right ones it used to miss."""

from __future__ import annotations

import pytest

from forkpoint.verify.rules import Rule, exact_leaf, find
from forkpoint.verify.symbolic import compare


def verdict(gold, answer, **rule):
    return compare({"gold": gold, "answer": answer, "rule": rule})["verdict"]


KNOWN = [
    # Known mistakes of math-verify: two bare equations, rounding to zero, malformed roots.
    ("3x+2y=5", "5x-y=2"),
    (r"\frac{1}{2004!}", r"\frac{1}{2006!}"),
    ("4", r"4\sqrt(2)"),
    # Rounding inside a tuple, an assignment, a set, an expression; far beyond the digits looked at.
    (r"(\frac{1}{2004!},1)", r"(\frac{1}{2006!},1)"),
    (r"x=\frac{1}{2004!}", r"x=\frac{1}{2006!}"),
    (r"\{\frac{1}{2004!},1\}", r"\{\frac{1}{2006!},1\}"),
    (r"\frac{x}{2004!}", r"\frac{x+10^{-9}}{2004!}"),
    ("10^{20}", r"\sqrt{10^{40}+1}"),
    (r"\sqrt{2}", r"\sqrt{2+10^{-600}}"),
    (r"\sin(10^{-9})", "10^{-9}"),
    ("0", "e^{-50}"),
    (r"\frac{\pi}{10^{7}}", "0.0000004"),
    ("0", "0.0000001"),
    # Equations without a solution, and equations that say something else.
    ("x^2=-1", "x^2=-2"),
    ("x^2+1=0", "x^2=-2"),
    (r"2x=\frac{1}{2004!}", r"2x=\frac{1}{2006!}"),
    (r"\sin x = 2", r"\sin x = 3"),
    ("5", "3=5"),
    ("5", "x=3=5"),
    ("5", "2x=5"),
    ("5", "x-1=5"),
    ("5", "x+y-1=5"),
    ("x=1,y=2", "x=2,y=1"),
    ("-5", "-x=-5"),
    ("5", "1/x=5"),
    ("x+5", "x=x+5"),
    # Units and bases.
    (r"5 \text{ cm}", r"5 \text{ km}"),
    (r"5 \text{ cm}^2", r"5 \text{ cm}^3"),
    (r"5 \text{ hours}", r"5 \text{ minutes}"),
    (r"\$5", r"5 \text{ cents}"),
    (r"\$5", "€5"),
    (r"25^\circ C", r"25^\circ F"),
    ("10", "10_2"),
    ("10_2", "10_3"),
    # Words after a number that change it, letters that are variables.
    ("5", r"5 \text{ not}"),
    ("5", r"5 \text{ million}"),
    ("5", r"5\text{ squared}"),
    ("4", r"4\text{π}"),
    ("4", r"4 \text{x}"),
    ("5", r"5 \mathrm{ab}"),
    ("2", "2m"),
    ("2n", "2m"),
    ("3", "3ab"),
    ("5", "5'"),
    # What a parser repairs or drops.
    ("9", r"4 \, 5"),
    ("11", r"5 \quad 6"),
    ("5", "2(3)"),
    ("3", "{1}{3}"),
    ("8", r"5\phantom{3}"),
    ("2.7", "4.5.6"),
    ("1,2,3", r"1,2,3,\ldots"),
    ("1,2,3", "1,2,3..."),
    # Brackets.
    (r"\{1,3\}", "(1,3)"),
    ("(1,3)", r"\{1,3\}"),
    ("(1,2,3)", r"\{1,2,3\}"),
    ("1,3", "(1,3)"),
    ("(1,3)", "[1,3]"),
    ("(3,1)", "(5,2)"),
    ("x<3", r"(-\infty,3]"),
    # Hedging.
    ("5", r"3 \text{ or } 5"),
    (r"2", r"\pm 2"),
    ("5", r"x \neq 5"),
    (r"0.\overline{3}", "0.3"),
    (r"\sqrt{x^2}", "x"),
    ("x", r"\sqrt{x^2}"),
]


@pytest.mark.parametrize(("gold", "answer"), KNOWN, ids=[f"{g}~{a}" for g, a in KNOWN])
def test_wrong_answers_are_wrong(gold, answer):
    assert verdict(gold, answer) == "wrong"


RIGHT = [
    (r"\sqrt{1/n}", r"1/\sqrt{n}"),
    (r"\frac{1}{\sqrt n}", r"\sqrt{\frac1n}"),
    ("73", "**73**"),
    (r"\sqrt{5+2\sqrt{6}}", r"\sqrt{2}+\sqrt{3}"),
    (r"0.\overline{3}", r"\frac{1}{3}"),
    ("6", "2(3)"),
    ("2x+2", "2(x+1)"),
    (r"\log_2 3", r"\log_2(3)"),
    (r"\frac{63}{5}", r"12\frac{3}{5}"),
    ("5", "x=5"),
    ("5", "f(2)=5"),
    ("5", "2+3=5"),
    ("5", "x+y=5"),
    ("x+y=1", "2x+2y=2"),
    ("x^2+y=1", "y=1-x^2"),
    ("f(x)=x+1", "x+1"),
    ("a_3 = 2, a_{37} = 19", r"a_{37} = 19, \quad a_3 = 2"),
    ("x=1,y=2", "1,2"),
    (r"5 \text{ km}", "5000 m"),
    (r"\$5", r"500 \text{ cents}"),
    (r"1 \text{ hour}", r"60 \text{ min}"),
    ("5", r"5 \text{ apples}"),
    (r"864 \mbox{ inches}^2", "864"),
    (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}^\circ"),
    ("2516_8", "2516"),
    ("2516_8", "2516_{8}"),
    (r"28\%", r"28 \text{ percent}"),
    (r"\{1,2\}", r"1 \text{ and } 2"),
    ("(1,2),(3,4)", "(3,4), (1,2)"),
    (r"x \in [-2,7]", "[-2,7]"),
    (r"\text{(C)}", "C"),
]


@pytest.mark.parametrize(("gold", "answer"), RIGHT, ids=[f"{g}~{a}" for g, a in RIGHT])
def test_right_answers_are_right(gold, answer):
    assert verdict(gold, answer) == "right"


@pytest.mark.parametrize("gold", ["1,2,\\ldots,10", "\\frac{1}{", "4 \\, 5", "9^{9^{9^{9}}}", "\\unknowncommand"])
def test_references_no_parser_reads_safely_are_not_judged(gold):
    assert verdict(gold, "1") == "unjudged"
    assert verdict(gold, gold) == "right"


@pytest.mark.parametrize(
    ("rule", "gold", "answer", "expected"),
    [
        # A number within the tolerance of its row; the unit the row names may be repeated, or converted.
        ({"kind": "number", "error": "1e-1", "unit": "%"}, "4.2", "4.3", "right"),
        ({"kind": "number", "error": "1e-1", "unit": "%"}, "4.2", r"4.1\%", "right"),
        ({"kind": "number", "error": "1e-1", "unit": "%"}, "4.2", "4.31", "wrong"),
        ({"kind": "number", "error": "1e-1"}, "4.2", r"\frac{30}{7}", "right"),
        ({"kind": "number", "error": "1e-1"}, r"3\sqrt{2}", "4.3", "right"),
        ({"kind": "number", "error": "1e-1"}, r"3\sqrt{2}", "4.4", "wrong"),
        ({"kind": "number", "error": "1e-1"}, "4.2", "x", "wrong"),
        ({"kind": "number", "error": "nonsense"}, "4.2", "4.2001", "unjudged"),
        ({"kind": "number", "unit": "minute"}, "45", r"45 \text{ minutes}", "right"),
        ({"kind": "number", "unit": "minute"}, "45", r"0.75 \text{ hours}", "right"),
        ({"kind": "number", "unit": "minute"}, "45", r"45 \text{ hours}", "wrong"),
        ({"kind": "number", "unit": "$cm^2$"}, "166", "166 cm^2", "right"),
        ({"kind": "number", "unit": "km/h"}, r"\frac{600}{7}", r"\frac{600}{7} \text{ km/h}", "right"),
        ({"kind": "number", "unit": r"^{\circ}"}, "90", r"90^\circ", "right"),
        ({"kind": "number"}, r"\sqrt{4}", "x=2", "right"),
        ({"kind": "number"}, "2", r"\{2\}", "wrong"),
        ({"kind": "interval"}, r"(-\infty,-5)", "x<-5", "right"),
        ({"kind": "interval"}, r"(-\infty,-5)", r"x\le-5", "wrong"),
        ({"kind": "interval"}, r"[\frac{1}{2}, 8]", "[0.5,8]", "right"),
        ({"kind": "interval"}, "(1,2)", "1,2", "wrong"),
        ({"kind": "interval"}, "(1,2)", r"\{1,2\}", "wrong"),
        ({"kind": "tuple"}, "(2,4)", "(x,y)=(2,4)", "right"),
        ({"kind": "tuple"}, "(2,4)", "(4,2)", "wrong"),
        ({"kind": "tuple"}, "(2,4)", "2,4", "wrong"),
        ({"kind": "tuple"}, r"(4, \log_{10} 2)", r"(4, \log_{10}(2))", "right"),
        ({"kind": "equation"}, "2x+4y-3=0", r"y=-\frac{1}{2}x+\frac{3}{4}", "right"),
        ({"kind": "equation"}, "y=2x", "2x", "wrong"),
        ({"kind": "equation"}, "y=2x", "y=3x", "wrong"),
        # Lists in any order, complete, nothing else.
        ({"several": True}, "$69$,$84$", r"84 \text{ and } 69", "right"),
        ({"several": True}, "1,3,5", "5,3,1", "right"),
        ({"several": True}, "1,3,5", "1,3", "wrong"),
        ({"several": True}, "1,3,5", "1,3,5,7", "wrong"),
        ({"several": True}, "1,3,5", "1,3,6", "wrong"),
        ({"several": True}, r"\frac{1}{3},-2,5", r"5, -2, \frac{2}{6}", "right"),
        ({"several": True}, r"\sqrt{8}, 3", r"3, 2\sqrt{2}", "right"),
        ({"several": True}, r"\sqrt{8}, 3", r"3, 2\sqrt{3}", "wrong"),
        ({"several": True}, "f(x)=x,f(x)=2-x", "f(x)=2-x; f(x)=x", "right"),
        ({"several": True}, "-2,-2", "-2", "right"),
        ({"several": True}, r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}", "right"),
        ({"several": True}, r"\sqrt{2}, x+1", r"\unknowncommand, 1+x", "wrong"),
        ({"several": True}, r"\unknowncommand, 1", "1, 2", "unjudged"),
        ({"several": True, "kind": "tuple"}, "(1,8,19), (2,7,13)", "(2,7,13), (1,8,19)", "right"),
        ({"several": True, "kind": "tuple"}, "(1,8,19), (2,7,13)", "(2,7,13), (8,1,19)", "wrong"),
        ({"several": True, "kind": "number", "error": "0.1,0.01"}, "1,2", "2.005,1.05", "right"),
        ({"several": True, "kind": "number", "error": "0.1,0.01"}, "1,2", "2.05,1.05", "wrong"),
        ({"several": True, "kind": "number", "error": "0.1"}, "1.05,1", "1.04,1.12", "right"),
        ({"several": True, "kind": "number", "error": "0.1,0.1,0.1"}, "1,2", "1,2.05", "unjudged"),
        # Letters and strings.
        ({"kind": "choice"}, "B", r"\text{(B)}", "right"),
        ({"kind": "choice"}, "(B)", "B. 7", "right"),
        ({"kind": "choice"}, "B", "A or B", "wrong"),
        ({"kind": "choice"}, "B", "A. 5 or B. 6", "wrong"),
        ({"kind": "choice"}, "B", "AB", "wrong"),
        ({"kind": "choice"}, "A,C", "CA", "wrong"),
        ({"kind": "choice"}, "A,C", "(C), (A)", "right"),
        ({"kind": "choice"}, "7", "A", "unjudged"),
        ({"kind": "string"}, "[1, 2]", " [1, 2]\n", "right"),
        ({"kind": "string"}, "[1, 2]", "[1,2]", "wrong"),
        ({"kind": "exact"}, "10,000", "10000", "right"),
        ({"kind": "exact"}, "3", r"\sqrt{9}", "wrong"),
    ],
)  # fmt: skip
def test_rules(rule, gold, answer, expected):
    assert verdict(gold, answer, **rule) == expected
    # What is decided without algebra is decided the same way.
    here = find(gold, answer, Rule(**rule), exact_leaf).verdict
    assert here in (expected, "open")


@pytest.mark.parametrize("kind", ["expression", "choice", "exact", "interval", "tuple", "equation"])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    "hostile",
    ["\0", "\0" * 5000, "(" * 5000, "{" * 900, "\\frac" * 200, ",".join("ab" * 250), "9^{9^{9}}", "\ud800"],
    ids=["null", "nulls", "brackets", "braces", "fractions", "list", "tower", "surrogate"],
)
def test_hostile_answers_have_a_verdict(kind, several, hostile):
    assert verdict("x+1", hostile, kind=kind, several=several) in ("wrong", "unjudged")
    assert find(hostile, "x+1", Rule(kind=kind, several=several), exact_leaf).verdict in ("wrong", "unjudged", "open")
