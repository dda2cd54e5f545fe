"""Wrong answers that a lenient comparison takes for right, one test each, and right ones it used to miss."""

from __future__ import annotations

import time

import pytest

from forkpoint.verify import symbolic
from forkpoint.verify.opaque import trig_degrees
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
    # Capitals, derivatives, whole parts, primes, transposes, vectors, names with values, words behind lists.
    (r"\frac{M}{M+m}", r"\frac12"),
    ("R-r", "0"),
    (r"\frac{R}{r}", "1"),
    (r"\frac{R}{r}", r"\frac{r}{R}"),
    ("R+r", "2r"),
    (r"G\frac{Mm}{r^2}", r"g\frac{m^2}{r^2}"),
    ("(R,r)", "(r,R)"),
    (r"\{A,a\}", "a"),
    (r"\Pi", "3.141593"),
    ("N=2n", "n=0"),
    ("N=n", "n=n"),
    ("M>m", "m>M"),
    (r"\Omega", r"\omega"),
    (r"\Gamma", r"\gamma"),
    ("E", "e"),
    (r"\frac{dy}{dx}", "0"),
    (r"\frac{dy}{dx}", r"\frac{dx}{dy}"),
    (r"m\frac{dv}{dt}", "0"),
    (r"-\frac{d\phi}{dx}", r"\frac{d\phi}{dx}"),
    (r"\frac{dS}{dT}+1", "1"),
    (r"\frac{dy}{dx}=2x", r"\frac{dy}{dx}=3x"),
    (r"\frac{dy}{dx}=2x", "0=2x"),
    ("5", r"5+\frac{dy}{dx}"),
    (r"\frac{d x}{d t}=k x-a", "kx=a"),
    (r"\frac{d x}{d t}=k x-a", r"x=\frac ak"),
    (r"\frac{d x}{d t}=k x-a", r"\frac{dx}{dt}=a-kx"),
    (r"m\frac{dv}{dt}+bv=f", "bv=f"),
    (r"m\frac{dv}{dt}+bv=f", r"-m\frac{dv}{dt}+bv=f"),
    (r"m+n-\gcd(m,n)", "m+n-1"),
    (r"\gcd(n,6)", "1"),
    (r"\gcd(n,6)", r"\gcd(n,5)"),
    (r"2^{\gcd(m,n)}-1", "1"),
    (r"\operatorname{lcm}(m,n)", "mn"),
    (r"\left[\frac n2\right]", r"\frac n2"),
    ("[x]+[y]", "x+y"),
    ("x-[x]", "0"),
    (r"2\{x\}", "2x"),
    ("f^{-1}(x)", "1/f(x)"),
    ("x=2,y=3", "3,2"),
    ("x=2,y=3", r"\{3,2\}"),
    ("x=2,y=3", "(3,2)"),
    ("x=2,y=3", "(x,y)=(3,2)"),
    ("x=2,y=3", "(y,x)=(2,3)+1"),
    ("a=1,b=2,c=3", "3,2,1"),
    ("f(n)=n, g(n)=1", "1,n"),
    ("x>2", r"x>2\text{ integers}"),
    (r"k\ge 2", r"k\ge 2\text{ even}"),
    ("[1,5]", r"[1,5]\text{ integers}"),
    ("(1,2)", r"(1,2)\text{ closed}"),
    ("1,2", r"1,2\text{ etc}"),
    ("1,2", r"1,2\text{ others}"),
    ("n", r"n\text{ even}"),
    ("5", r"5\text{ millions}"),
    ("5", r"5\text{ dozens}"),
    ("5", r"5\text{ doubled}"),
    ("5", r"5\text{ incorrect}"),
    ("5", r"5\text{ percents}"),
    ("5", r"5\text{ sixths}"),
    ("f'(x)", "f(x)"),
    ("y'=2x", "y=2x"),
    ("f'(x)-f(x)", "0"),
    ("y'+2y=0", "3y=0"),
    ("a'-a", "0"),
    ("A^T", "A"),
    ("A^TA", "A^2"),
    ("(AB)^T", "AB"),
    (r"\vec a\times\vec b", r"\vec b\times\vec a"),
    (r"\mathbf a\cdot\mathbf b", r"\mathbf a\times\mathbf b"),
    (r"2\sin 10^\circ", "-1.088042"),
    (r"\cos 28^\circ", r"\cos 28"),
    ("-0.952413", r"\cos 60^\circ"),
    ("x=5", "x=6=5"),
    (r"90^\circ", r"90\%"),
    (r"30\text{ degrees}", r"30\%"),
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
    ("0.5", r"\cos 60^\circ"),
    (r"\cos 28^\circ", r"\cos(28^\circ)"),
    (r"\frac{R}{r}", r"\frac{2R}{2r}"),
    (r"\frac{dy}{dx}=2x", r"2x=\frac{dy}{dx}"),
    (r"\frac{dx}{dt}=kx-a", r"\frac{d x}{d t}=-a+k x"),
    (r"m+n-\gcd(m,n)", r"n+m-\gcd(n,m)"),
    (r"\left[\frac n2\right]", r"[\frac{n}{2}]"),
    ("x=2,y=3", "(2,3)"),
    ("x=2,y=3", "2,3"),
    ("x=2,y=3", "y=3,x=2"),
    ("x=2,y=3", "(x,y)=(2,3)"),
    ("y'+2y=0", "2y+y'=0"),
    (r"x^{\prime}+\frac{r}{V}x-rc=0", r"x'+\frac rV x-rc=0"),
    ("1440", r"1\,440"),
    ("10080", "10 080"),
    ("10080", r"\$10\,080"),
    ("10080", "x = 10{,}080"),
    ("58500", "x = 58,500"),
    ("(1,2)", r"\bigl(1,2\bigr)"),
    ("5", r"5\text{ apples}"),
    (r"\frac{3}{4}", r"\frac34\text{ cups}"),
    (r"3\sqrt2", r"3\sqrt{2}\text{ units}"),
    ("x=5", r"x=5\text{ apples}"),
    (r"2\pi", r"2\pi\text{ radians}"),
    (r"\text{Even}", "even"),
    (r"\text{even}", r"\text{Even}"),
    ("y=x", "y=x"),
    ("5", r"5\text{ units}"),
    (r"90^\circ", "90"),
    (r"50\%", "50"),
    ("3!!", "3!!"),
    ("3((x+1)^2-4)", "3[(x+1)^2-4]"),
    ("12", r"12\text{ square units}"),
    ("6-5i", r"6-5 \cdot i"),
    ("6-5i", "6-5*i"),
    ("6-5i", "6+(-5)i"),
    (r"(0,1)\cup(1,2)", r"(0,1)\cup(1,2)"),
    (r"\{x|x>2\}", r"\{x|x>2\}"),
    ("e^2", "e^2"),
    ("E=mc^2", "E=mc^2"),
]


@pytest.mark.parametrize(("gold", "answer"), RIGHT, ids=[f"{g}~{a}" for g, a in RIGHT])
def test_right_answers_are_right(gold, answer):
    assert verdict(gold, answer) == "right"


@pytest.mark.parametrize(
    ("kind", "gold", "answer", "expected"),
    [
        *(("interval", gold, answer, "wrong") for gold in (r"\emptyset", r"\{\}") for answer in (
            "0<1", r"x^2\ge 0", r"x\ge x", r"|x|\ge0", r"\sin x\le 1",
        )),
        ("interval", "x>2", r"(2,\infty)", "right"), ("interval", "0<1", "0<1", "right"),
        ("tuple", "1,2,3", "3,2,1", "wrong"), ("tuple", "1,2,3", "(3,2,1)", "wrong"), ("tuple", "x, y", "y,x", "wrong"),
        ("tuple", "1,2,3", r"\frac22,2,3", "right"), ("tuple", "1,2,3", r"(\frac22,2,3)", "right"),
        ("equation", "N=2n", "n=0", "wrong"),
    ],
)  # fmt: skip
def test_kinds_close_what_parsers_leave_open(kind, gold, answer, expected):
    assert verdict(gold, answer, kind=kind) == expected


@pytest.mark.parametrize("text", [r"\sin" + " " * 990, r"\sin" + " " * 500 + "1" + " " * 400, r"\sin^{" * 166])
def test_blanks_in_a_row_are_read_in_one_way(text):
    # Seconds where two runs of blanks meet in a pattern, a thousandth of one where they are possessive.
    start = time.process_time()
    trig_degrees(text)
    assert time.process_time() - start < 0.2


def test_an_answer_too_large_to_parse_is_the_answers_fault(monkeypatch):
    def full(text):
        if text == "2":
            raise MemoryError
        return 1

    monkeypatch.setattr(symbolic, "parsed", full)
    monkeypatch.setattr(symbolic, "find", lambda gold, answer, rule, leaf: (full(gold), full(answer)))
    assert compare({"gold": "1", "answer": "2"}) == {"verdict": "wrong", "detail": "too large to evaluate"}
    assert compare({"gold": "2", "answer": "1"})["verdict"] == "unjudged"


@pytest.mark.parametrize(
    "gold", ["1,2,\\ldots,10", "\\frac{1}{", "4 \\, 5", "9^{9^{9^{9}}}", "\\unknowncommand", "n!!"]
)
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
