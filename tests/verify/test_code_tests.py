"""Test texts as they are read: unknown names, what carries a result, what counts as an assertion about it."""

from __future__ import annotations

import pytest

from forkpoint.verify.code_case import NoTests
from forkpoint.verify.code_tests import checks, follow, made, numpy_for, parsed, unknown


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("assert f(1) == ONE", ["f", "ONE"]), ("for i, (a, b) in g(): assert a", ["g"]), ("x: int = f(1); x", ["f"]),
        ("try:\n    f()\nexcept ValueError as e:\n    e.args", ["f"]), ("with f() as (a, b):\n    a", ["f"]),
        ("[i for i in f() if (y := i)]; y", ["f"]), ("lambda a, *b, c=1, **d: a(b, c, d)", []),
        ("match f():\n case [a, *b]:\n  a(b)\n case {'x': c, **d}:\n  c(d)\n case e:\n  e", ["f"]),
        ("from math import *\nassert isclose(f(1), pi)", ["f"]), ("import os.path as p, sys\np(sys, os)", ["os"]),
        ("def g(x):\n    return x(h)\nclass C: pass\ng(C)", ["h"]), ("candidate(__name__, print)", []),
    ],
)  # fmt: skip
def test_unknown_names(text, names):
    assert unknown(parsed(text)) == names


def test_everything_of_some_module_is_refused():
    with pytest.raises(NoTests, match="everything of antigravity"):
        made(parsed("from antigravity import *"))


@pytest.mark.parametrize(
    ("text", "asserts"),
    [
        ("assert f(1) == 2", True), ("assert 1 == 1", False), ("f(1)\nassert True", False), ("f(1) == 2", False),
        ("x = f(1)\nassert x == 2", True), ("y = 1\nassert y", False), ("x, (y, z) = f(1)\nassert z", True),
        ("for x in f(1): assert x", True), ("assert [x for x in f(1)]", True),
        ("r = []\nr.append(f(1))\nassert r", True),
        ("def g(): assert f(1)", False), ("def g(): assert f(1)\ng()", True),
        ("def g(): return f(1)\nassert g()", True),
        ("def g(a, b): assert a == b\ng(f(1), 2)", True), ("def g(a, b): assert a == b\ng(1, 1)\nf(1)", False),
        ("def g(a, b): a == b\ng(f(1), 2)", False), ("def assertion(a, b): a == b\nassertion(f(1), 2)", False),
        ("try:\n    f(1)\n    assert False\nexcept ValueError:\n    pass", True),
        ("try:\n    assert f(1)\nexcept:\n    pass", False),
        ("try:\n    assert f(1)\nexcept Exception: print()", False),
        ("try:\n    assert f(1)\nexcept (KeyError, AssertionError):\n    pass", False),
        ("try:\n    assert f(1)\nexcept AssertionError:\n    raise", True),
        ("try:\n    f(1)\nexcept ValueError as e:\n    assert str(e) == 'x'", True),
        ("try:\n    f(1)\nexcept Exception:\n    pass\nelse:\n    assert False", True),
        ("if f(1) != 2:\n    raise ValueError", True), ("if f(1) != 2:\n    print('no')", False),
        ("n = 0\nif f(1) == 2:\n    n += 1\nassert n", True),
        ("import numpy as np\nnp.testing.assert_x(f(1), 2)", True),
        ("class A:\n    def g(self): self.assertEqual(f(1), 2)\nA().g()", True), ("lambda: f(1)", False),
        ("class A:\n    def g(self):\n        with self.assertRaises(E): f(1)\nA().g()", True),
        ("def g():\n    return f(1)\ng()", False), ("assert candidate(1)", True),
    ],
)  # fmt: skip
def test_what_asserts_something_about_a_program(text, asserts):
    tree = parsed(text)
    assert checks(tree.body, follow(tree, ["f"])) is asserts


def test_a_verdict_may_be_returned_by_who_is_asked_for_it():
    tree = parsed(
        "def check(c):\n    for x in (1, 2):\n        if c(x):\n            return False\n    return True\ncheck(f)"
    )
    for verdicts in ((), ("check",)):
        assert checks(tree.body, follow(tree, ["f"], verdicts)) is bool(verdicts)


@pytest.mark.parametrize(
    ("text", "lacking"),
    [
        ("import math, pandas", "pandas"), ("from .solution import f", r"\."),
        ("import numpy as xp\nxp.array(1)", "numpy.array"),
        ("from numpy import zeros", "numpy.zeros"), ("import numpy.linalg", "numpy.linalg"),
        ("import numpy as np\nnp.testing.assert_equal(1, 1)", "numpy.testing.assert_equal"),
    ],
)  # fmt: skip
def test_what_a_judge_does_not_have(text, lacking):
    with pytest.raises(NoTests, match=f"the tests need {lacking}, and only"):
        numpy_for(parsed(text))


def test_numpy_stands_in_only_where_it_is_imported():
    assert numpy_for(parsed("import math\n'''\nfrom the start\n'''\nmath.array")) == ""
    assert "allclose" in numpy_for(parsed("import numpy as np\nnp.testing.assert_allclose(1, 1)\nnp.allclose(1, 1)"))
