"""The cheap path: boxes, normal forms, numbers, caps."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkpoint.verify.exact import exactly_equal, last_boxed, normalise, number, over_cap


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (r"\boxed{5}", "5"),
        (r"first \boxed{4}, then \boxed{5}.", "5"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{1\right.}", r"\left\{1\right."),
        (r"\boxed {7}", "7"),
        (r"\fbox{7}", "7"),
        (r"\boxed{x = \boxed{5}}", "5"),
        (r"\boxed{4} and \boxed{5", "4"),
        (r"a stray { and \boxed{6}", "6"),
        (r"} \boxed{6} }", "6"),
        (r"\boxed{}", ""),
        ("\\boxed{\n 8 \n}", "8"),
        (r"\boxed{9", None),
        (r"\boxed 9", None),
        (r"\\boxed{9}", None),
        ("", None),
    ],
)
def test_last_boxed(text, box):
    assert last_boxed(text) == box


@given(st.text(alphabet="\\boxed{} 1"))
def test_last_boxed_never_raises_and_is_part_of_the_text(text):
    box = last_boxed(text)
    assert box is None or box in text


@pytest.mark.parametrize("text", ["\\boxed{" * 20_000, "\\boxed{" * 20_000 + "}" * 20_000, "{" * 100_000])
def test_last_boxed_is_one_pass(text):
    start = time.perf_counter()
    last_boxed(text)
    # A scan per box would need minutes.
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("-7", -7),
        ("\u22127", -7),
        ("+7", 7),
        ("007", 7),
        ("5.0", 5),
        ("5.", 5),
        (".5", Fraction(1, 2)),
        ("-0.25", Fraction(-1, 4)),
        ("10,000", 10_000),
        ("10{,}000", 10_000),
        (r"10\,000", 10_000),
        (r"10\!,000", 10_000),
        (r"10,\!000", 10_000),
        ("1 000", 1_000),
        ("1,234,567.5", Fraction(2_469_135, 2)),
        (r"$\$18.90$", Fraction(189, 10)),
        (r"\text{42}", 42),
        (r"\(42\)", 42),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"-\dfrac{3}{4}", Fraction(-3, 4)),
        (r"\frac12", Fraction(1, 2)),
        ("3/4", Fraction(3, 4)),
        ("0", 0),
        ("3/0", None),
        ("1,22", None),
        ("0,111", None),
        ("32, 349", None),
        ("1,0000", None),
        ("3 5", None),
        ("--5", None),
        ("1e5", 100_000),
        ("2.5e-1", Fraction(1, 4)),
        (r"4.5 \times 10^{3}", 4500),
        (r"3\cdot10^2", 300),
        ("1e5000", None),
        (r"0.\overline{3}", Fraction(1, 3)),
        (r"-1.1\overline{6}", Fraction(-7, 6)),
        ("**73**", 73),
        ("1\u00a0000", 1000),
        ("x", None),
        ("", None),
        (".", None),
        ("-", None),
        ("\u0663", None),
        ("9" * 201, None),
    ],
)
def test_number(text, value):
    assert number(text) == value


@given(st.integers(-(10**30), 10**30))
def test_number_reads_integers_with_and_without_separators(value):
    assert number(str(value)) == value == number(f"{value:,}") == number(f"{value:,}".replace(",", "{,}"))


def test_normalise_keeps_apart_what_differs():
    assert normalise("3 5") != normalise("35")
    assert normalise(r"\pi r") == normalise(r"$\pi  r$") != normalise(r"\pir")
    assert normalise(r"a\\ b") != normalise(r"a\ b")
    assert normalise("A") != normalise("a")


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("10{,}000", "10000", True),
        ("5", "5.00", True),
        (r"\text{Even}", "Even", True),
        (r"x^2 + 1", r"$x^2+1$", True),
        (r"\dfrac{1}{2}", "0.5", True),
        ("4:30p..", "4:30p", True),
        ("3", "4", False),
        ("3", "-3", False),
        ("1/12", "0.083333", True),
        ("1/12", "0.08333", False),
        ("1/3", "333333/1000000", False),
        ("0", "0.0000001", False),
        ("0.0000002", "2e-7", True),
        ("0.0000002", "0.00000021", False),
        ("1,2,3", "1,2,3...", None),
        ("1/12", "0.0833", False),
        ("2.5", "2.6", False),
        ("3", r"\sqrt{9}", None),
        ("32349", "32, 349", None),
        ("28", r"28\%", None),
        ("", "", None),
        ("1" * 1001, "1" * 1001, None),
    ],
)
def test_exactly_equal(gold, answer, verdict):
    assert exactly_equal(gold, answer) is verdict


@pytest.mark.parametrize(
    ("text", "cap"),
    [
        ("x" * 1001, "length"),
        ("x" * 1000, None),
        ("1" * 201, "digits"),
        ("1" * 200, None),
        ("(" * 33 + ")" * 33, "depth"),
        ("{[(" * 10 + ")]}" * 10, None),
        ("9^{9^{9^{9}}}", "exponent"),
        ("9^9^9^9", None),
        ("9**9**9**9", None),
        ("9^{9^9}", "exponent"),
        ("2^{2^{3}}", None),
        ("2^{2^{100}}", "exponent"),
        ("2^{10001}", "exponent"),
        ("2^{10000}", None),
        ("2^10001", "exponent"),
        ("2**(10001)", "exponent"),
        (r"10^{-10001}", "exponent"),
        ("x^{n+1009}", None),
        ("10001!", "exponent"),
        ("(10001)!", "exponent"),
        ("2004!", None),
        ("((9!)!)!", "exponent"),
        ("(10^{9})!", "exponent"),
        ("(n!)!", None),
        (r"\frac{d !}{2 k(d-k) !}", None),
        (r"\binom{10001}{2}", "exponent"),
        (r"\binom{2004}{2}", None),
        ("e^{x^{2}}", None),
        (r"\frac{1}{2}", None),
    ],
)
def test_over_cap(text, cap):
    assert over_cap(text) == cap
