"""Where the answer stands, one convention at a time."""

from __future__ import annotations

import pytest

from forkpoint.verify.extract import EXTRACTIONS


@pytest.mark.parametrize(
    ("name", "text", "answer"),
    [
        ("boxed", r"so \boxed{18}", "18"),
        ("boxed", "so 18", None),
        ("gsm8k", "9 * 2 = 18\n#### 18", "18"),
        ("gsm8k", "#### 17\nno\n#### 1,800\nrest", "1,800"),
        ("gsm8k", "####", None),
        ("gsm8k", "18", None),
        ("a-line", "so\nA: 18", "18"),
        ("a-line", "A: 17\nno\n  A: 18 \n", "18"),
        ("a-line", "The grade was an A: 18", None),
        ("a-line", "A:", None),
        ("number", "so 1,250 eggs or $-3.50.", "-3.50"),
        ("number", "from 3-5", "5"),
        ("number", "1,250, and then", "1,250"),
        ("number", "none", None),
        ("whole", " x+1 ", "x+1"),
        ("whole", " ", None),
        ("auto", r"thus \boxed{7} #### 8", "7"),
        ("auto", "1+1\n#### 2", "2"),
        ("auto", "1+1\nA: 2", "2"),
        ("auto", "1+1\n####", None),
        ("auto", r"thus \boxed{}", None),
        ("auto", "A:", None),
        ("auto", r"\frac{1}{2}", r"\frac{1}{2}"),
    ],
)
def test_extraction(name, text, answer):
    assert EXTRACTIONS[name](text) == answer
