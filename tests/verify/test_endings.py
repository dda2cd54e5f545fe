"""Where final answers stand, and when two of them are the same."""

from __future__ import annotations

import pytest

from forkpoint.verify.endings import Ending, convention, same_form

BOX = r"Two.\n\nSo \boxed{4}, no: \boxed{\frac{1}{2}} and \boxed{3"


@pytest.mark.parametrize(
    ("name", "text", "answer", "opener", "from_here"),
    [
        ("boxed", BOX, r"\frac{1}{2}", "\\boxed{", r"\boxed{\frac"),
        ("gsm8k", "9 * 2\n#### 18", "18", "#### ", "####"),
        ("a-line", "x\nA: 4\nso\nA: 5\nend", "5", "A: ", "A: 5"),
        ("number", "12 or 12, so 12.", "12", "", "12."),
        ("whole", " 42 ", "42", "", "42"),
        ("auto", "2 then #### 7", "7", "#### ", "####"),
        ("countdown", "first 1 + 2 = 3 , 3 + 4 = 7 no wait 2 * 4 = 8 , 8 + 1 = 9 yes",
         "2 * 4 = 8 , 8 + 1 = 9", "wait", "wait 2"),
    ],
)  # fmt: skip
def test_endings(name, text, answer, opener, from_here):
    found = convention(name).find(text)
    assert (found.answer, found.opener) == (answer, opener)
    assert text[found.start :].startswith(from_here)


@pytest.mark.parametrize(
    ("name", "text"),
    [("boxed", r"\boxed{4"), ("gsm8k", "18"), ("number", "none"), ("whole", "  "), ("countdown", "first 1 yes"),
     ("countdown", "first 1 + 2 = 3 , 3 + 4 = 7 no stop")],
)  # fmt: skip
def test_no_ending(name, text):
    assert convention(name).find(text) is None


def test_equal_answers_have_one_form():
    def form(text):
        return same_form(Ending(answer=text, opener="", start=0))

    assert form("1/2") == form("0.50") != form("2")
    assert form(r"\dfrac{a}{2}") == form(r"\frac{a}{2}")
    assert same_form(None) is None
