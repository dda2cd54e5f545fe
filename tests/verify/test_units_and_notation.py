"""Units, TeX arguments, brackets, lists, choice letters."""

from __future__ import annotations

import pytest

from forkpoint.verify.notation import bracketed, choice_letters, explicit_arguments, parts, unreadable
from forkpoint.verify.units import conversion, field_unit, read_unit, split_unit


@pytest.mark.parametrize(
    ("text", "body", "powers"),
    [
        (r"5 \text{ cm}", "5", (("length", 1),)),
        ("5cm", "5", (("length", 1),)),
        (r"15\mbox{ cm}^2", "15", (("length", 2),)),
        (r"10 \text{ square inches}", "10", (("length", 2),)),
        (r"300 \mathrm{~km} / \mathrm{s}", "300", (("length", 1), ("time", -1))),
        (r"9.8\,\mathrm{m/s^2}", "9.8", (("length", 1), ("time", -2))),
        (r"9 \mathrm{kcal} \mathrm{m}^{-2} \mathrm{yr}^{-1}", "9", (("kcal", 1), ("length", -2), ("yr", -1))),
        (r"90^\circ", "90", (("angle", 1),)),
        (r"98.6^\circ\text{F}", "98.6", (("degree F", 1),)),
        (r"\$32,\!348", r"32,\!348", (("money", 1),)),
        (r"5 \text{ apples}", "5", (("apple", 1),)),
        (r"5 \text{ not}", r"5 \text{ not}", None),
        (r"5 \text{ or } \text{cm}", r"5 \text{ or } \text{cm}", None),
        (r"4\text{π}", r"4\text{π}", None),
        (r"\text{east}", r"\text{east}", None),
        ("2m", "2m", None),
        ("x", "x", None),
        ("", "", None),
    ],
)
def test_split_unit(text, body, powers):
    found, unit = split_unit(text)
    assert (found, unit and unit.powers) == (body, powers)


def test_bare_symbols_are_units_only_where_asked():
    assert split_unit("2 m", symbols=True)[0] == "2"
    assert split_unit("2 m")[0] == "2 m"


@pytest.mark.parametrize(
    ("gold", "answer", "factor"),
    [("m", "km", 1000), ("km/h", "m/s", 3.6), ("cm^2", "m^2", 10_000), ("minute", "hour", 60), ("m", "m^2", None),
     ("apples", "pears", None), ("dollars", "cents", 0.01)],
)  # fmt: skip
def test_conversion(gold, answer, factor):
    found = conversion(read_unit(gold), read_unit(answer))
    assert found == factor if factor is None else float(found) == pytest.approx(factor, rel=1e-15)
    assert conversion(None, read_unit(answer)) == 1


def test_units_beside_a_reference():
    assert field_unit("$cm^2$").powers == (("length", 2),)
    assert field_unit("^{\\circ}").powers == (("angle", 1),)
    assert field_unit("%") is None
    assert field_unit("") is None


@pytest.mark.parametrize(
    ("text", "explicit"),
    [
        (r"\frac12", r"\frac{1}{2}"),
        (r"\dfrac1{20}", r"\frac{1}{20}"),
        (r"\frac{\pi}2", r"\frac{\pi}{2}"),
        (r"\frac\pi2", r"\frac{\pi}{2}"),
        (r"\frac 59", r"\frac{5}{9}"),
        (r"\frac1n", r"\frac{1}{n}"),
        (r"\frac{\sqrt2}2", r"\frac{\sqrt{2}}{2}"),
        (r"\sqrt23", r"\sqrt{2}3"),
        (r"\sqrt[3]{2}", r"\sqrt[3]{2}"),
        (r"\sqrt(2(3))", r"\sqrt{2(3)}"),
        (r"\sqrt(2", r"\sqrt{(}2"),
        (r"\fraction12", r"\fraction12"),
        (r"\frac", r"\frac{}{}"),
        (r"\frac{1", r"\frac{1}{}"),
    ],
)
def test_arguments_are_read_as_tex_reads_them(text, explicit):
    assert explicit_arguments(text) == explicit


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("1,2", ["1", "2"]),
        (r"\{1,\ 2\}", ["1", "2"]),
        ("(1,2),(3,4)", ["(1,2)", "(3,4)"]),
        (r"1 \text{ and } 2 or 3; 4", ["1", "2", "3", "4"]),
        (r"10{,}000, 32,\!349", ["10{,}000", r"32,\!349"]),
        (r"\sin x, \operatorname{land}", [r"\sin x", r"\operatorname{land}"]),
        ("", []),
        (",", []),
    ],
)
def test_parts(text, answers):
    assert parts(text) == answers


def test_brackets_must_enclose_everything():
    assert bracketed("(1,2)") == ("(", "1,2", ")")
    assert bracketed("[0,1)") == ("[", "0,1", ")")
    assert bracketed("(1,2)+(3,4)") is None
    assert bracketed("1") is None


def test_what_cannot_be_read_is_named():
    assert unreadable("1 2") == unreadable("1{2}") == unreadable("{1}{2}") == "numbers side by side"
    assert unreadable(r"\frac3{3}") == unreadable(r"x^{2}3") == unreadable(r"10{,}000") == ""
    assert unreadable("(1") == unreadable("1)") == unreadable("}{") == "unbalanced brackets"
    assert unreadable("5-") == unreadable("*5") == unreadable(r"5\pm") == "a sign without a value"
    assert unreadable("5\0") == unreadable("5 # 6") == "a character that is no mathematics"
    assert unreadable("[0,1)") == unreadable(r"\pm 2") == unreadable("4π√2") == unreadable("-5!") == ""
    assert unreadable("10_2+1") == "a base inside an expression"


def test_choice_letters():
    for text in ("B", "b", "(B)", "[B]", "B.", r"\text{(B)}", r"\textbf{(B)}~7", "B) seven", "(B) the second."):
        assert choice_letters(text) == {"B"}, text
    for text in ("", "7", "apple", "A or B", "A/B", "(A) or (B)", "B. see A.", "BA"):
        assert choice_letters(text) == set(), text
    assert choice_letters("ACD") == choice_letters("A, C and D") == {"A", "C", "D"}
