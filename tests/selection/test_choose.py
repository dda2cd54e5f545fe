"""Decisions on problems: bounds, unknown quantities, ranks, and the sentences that say why."""

from __future__ import annotations

import math

import pytest

from forkpoint.errors import InputError
from forkpoint.selection.choose import Criteria, choose
from forkpoint.selection.problems import Measured


def one(right=0, judged=4, tokens=40, area=1.0):
    return Measured(answers=4, judged=judged, right=right, lengths=4, tokens=tokens, area=area)


SEEN = {
    "none": one(0, area=3.0),
    "some": one(1, tokens=80, area=5.0),
    "most": one(3, tokens=120, area=5.0),
    "all": one(4, area=9.0),
    "open": one(0, judged=0, area=7.0),
}
IDS = [*SEEN, "new"]


def kept(**criteria):
    return [name for name, choice in zip(IDS, choose(IDS, SEEN, Criteria(**criteria)), strict=True) if choice.kept]


@pytest.mark.parametrize(
    ("criteria", "names"),
    [
        ({"min_pass": 0.25}, ["some", "most", "all"]),
        ({"max_pass": 0.25}, ["none", "some"]),
        ({"mixed": True}, ["some", "most"]),
        ({"min_length": 20, "max_length": 29}, ["some"]),
        ({"max_area": 5}, ["none", "some", "most"]),
        ({"top": 2}, ["all", "open"]),
        ({"top": 2, "lowest": True}, ["none", "some"]),
        ({"top": 3}, ["some", "all", "open"]),
        ({"top": 1, "by": "length"}, ["most"]),
        ({"top": 1, "by": "pass", "lowest": True, "mixed": True}, ["some"]),
        ({"mixed": True, "top": 99}, ["some", "most"]),
    ],
)
def test_what_is_kept(criteria, names):
    assert kept(**criteria) == names


def test_reasons():
    criteria = Criteria(max_pass=0.8, min_length=15, mixed=True, top=1)
    found = dict(zip(IDS, choose(IDS, SEEN, criteria), strict=True))
    assert {name: choice.reason for name, choice in found.items()} == {
        "none": "all wrong",
        "some": "kept",
        "most": "not among the top",
        "all": "pass rate too high",
        "open": "pass rate not known",
        "new": "not answered",
    }
    assert found["all"].why == "pass rate 1 is above 0.8"
    assert found["none"].why == "all its 4 judged answers are wrong"
    assert found["most"].why == (
        "pass rate 0.75 is within bounds; length 30 tokens is within bounds; "
        "entropy area 5 bits is number 2 of 2 from the highest"
    )
    dropped = choose(["some"], {"some": one(1, tokens=0)}, Criteria(min_length=1))[0]
    assert dropped.why == "length 0 tokens is below 1"


@pytest.mark.parametrize(
    ("criteria", "said"),
    [
        ({}, "nothing to select by"),
        ({"top": 0}, "keeps no problem"),
        ({"min_pass": 0.5, "max_pass": 0.25}, "no pass rate is at least 0.5 and at most 0.25"),
        ({"top": 1, "by": "size"}, "'size' is nothing to order by"),
        ({"min_pass": math.nan}, "--min-pass nan bounds nothing: give a number, or leave it out"),
        ({"max_length": math.inf}, "--max-length inf bounds nothing"),
        ({"min_area": -math.inf}, "--min-area -inf bounds nothing"),
        ({"min_pass": -0.1}, "--min-pass -0.1 is no share of right answers: give 0 to 1"),
        ({"max_pass": 50}, "--max-pass 50 is no share of right answers: give 0 to 1"),
    ],
)
def test_criteria_that_mean_nothing(criteria, said):
    with pytest.raises(InputError, match=said):
        Criteria(**criteria)
