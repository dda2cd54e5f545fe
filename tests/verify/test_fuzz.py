"""Mutated answers, a small share of `benchmarks/verifier_fuzz.py`: a verdict for each, in time, none fooled."""

from __future__ import annotations

import random
import sys
import time
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import pytest
import verifier_fuzz as fuzz
from hypothesis import given, settings
from hypothesis import strategies as st

from forkpoint.rollouts import Prompt, Verdict
from forkpoint.verify import exact
from forkpoint.verify.exact import number
from forkpoint.verify.math import math_judge
from forkpoint.verify.rules import KINDS, Rule, exact_leaf, find

DEADLINE = 2.0


def test_mutated_answers_end_in_time_and_no_changed_number_is_right():
    cases = list(fuzz.answers(250, seed=1))
    assert sum(changed for _, _, changed in cases) > 12
    with math_judge(deadline=DEADLINE) as judge:
        judge([Prompt(id="", text="", answer="x+1")] * 2, [r"\boxed{1+x}", r"\boxed{2+x}"])
        start = time.monotonic()
        found = judge(
            [Prompt(id="", text="", answer=gold) for gold, _, _ in cases],
            [f"\\boxed{{{answer}}}" for _, answer, _ in cases],
        )
        # Two workers, and every one of them late, is the most this can take.
        assert time.monotonic() - start < DEADLINE * len(cases)
    assert len(found) == len(cases)
    fooled = [case for case, one in zip(cases, found, strict=True) if case[2] and one.verdict is Verdict.RIGHT]
    assert fooled == []
    verdicts = {one.verdict for one in found}
    assert {Verdict.RIGHT, Verdict.WRONG} <= verdicts, "mutations that leave nothing right test nothing"
    # The reference is always readable, so what is not judged ran out of time or memory.
    assert {one.detail for one in found if one.verdict is Verdict.UNJUDGED} <= {"deadline", "died", "out of memory"}


def test_changed_numbers_are_what_they_say():
    rng = random.Random(0)
    for _ in range(300):
        gold = rng.choice(fuzz.NUMBERS)
        read = number(fuzz.changed_number(gold, rng))
        assert read is None or abs(read - Fraction(gold)) > Fraction(1, 2000)


@settings(max_examples=150, deadline=None)
@given(
    pieces=st.lists(st.sampled_from([*fuzz.PIECES, *fuzz.REFERENCES]), min_size=1, max_size=3),
    kind=st.sampled_from(sorted(KINDS)),
    several=st.booleans(),
)
def test_repeated_pieces_cost_no_more_than_their_length(pieces, kind, several):
    repeated("".join(pieces), Rule(kind=kind, several=several))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", ["\\text{Evelyn} ", "\\text{ cm}/ ", "5" + " " * 900, "\\, ", "( ", "1 , "])
@pytest.mark.parametrize("several", [False, True])
def test_repetitions_that_can_be_read_in_many_ways_end(piece, several):
    repeated(piece, Rule(several=several))


def repeated(piece, rule):
    """Judge a repetition. No deadline guards this process, so no pattern may try every way of reading it."""
    text = (piece * 1000)[:1000]
    for gold, answer in ((text, "5"), ("5", text), ("5 \\text{ cm}", text)):
        assert find(gold, answer, rule, exact_leaf).verdict in ("right", "wrong", "unjudged", "open")


def test_a_text_of_any_length_is_read_from_its_end_alone(monkeypatch):
    read = []

    class Counting:
        def finditer(self, text):
            read.append(len(text))
            return box.finditer(text)

    box = exact._BOX
    monkeypatch.setattr(exact, "_BOX", Counting())
    monkeypatch.setattr(exact, "MAX_READ", 1000)
    assert exact.last_boxed("{" * 5000 + r"\boxed{7}") == "7"
    assert exact.last_boxed(r"\boxed{7}" + " " * 1000) is None
    assert exact.last_boxed(r"\boxed{" + "1" * 1000 + "}") is None
    assert exact.last_boxed(r"\boxed{7} so \boxed{8}") == "8"
    assert max(read) == 1000


PIECES = st.lists(st.sampled_from(fuzz.PIECES), max_size=12).map("".join)


@settings(max_examples=200, deadline=None)
@given(gold=PIECES, answer=PIECES, kind=st.sampled_from(sorted(KINDS)), several=st.booleans())
def test_text_alone_never_raises_and_equal_text_is_never_wrong(gold, answer, kind, several):
    rule = Rule(kind=kind, several=several)
    assert find(gold, answer, rule, exact_leaf).verdict in ("right", "wrong", "unjudged", "open")
    if find(gold, answer, Rule(kind="string"), exact_leaf).verdict == "right" and gold.strip():
        assert find(gold, answer, Rule(), exact_leaf).verdict != "wrong"
