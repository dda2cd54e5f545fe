"""Tests that are Python, run: what is collected, whose helpers count, classes, partial rewards, rows without a test."""

from __future__ import annotations

import pytest

from forkpoint.rollouts import Prompt
from forkpoint.verify.code import code_judge

ADD = "```python\ndef f(x):\n    return x + 1\n```"
BAD = "```python\ndef f(x):\n    return 'wrong'\n```"
SUM = "```python\nclass Solution:\n    def f(self, nums: List[int]) -> int:\n        return sum(nums)\n```"
STATE = (
    "```python\nclass Solution:\n    def __init__(self):\n        self.n = 0\n    def f(self, nums):\n"
    "        self.n += sum(nums)\n        return self.n\n```"
)


@pytest.fixture(scope="module")
def judge():
    with code_judge() as found:
        yield found


@pytest.fixture(scope="module")
def partial():
    with code_judge(partial=True) as found:
        yield found


def judged(judge, row, text, answer=None):
    (found,) = judge([Prompt(id="p", text="", answer=answer, meta=row)], [text])
    return found


@pytest.mark.parametrize(
    "row",
    [
        {"tests": "def test_f():\n    assert f(1) == 2\n"},
        {"tests": "def test_f():\n    assert f(1) == 2\n\ntest_f()\n"},
        {"entry_point": "f", "tests": "def test_f(candidate):\n    assert candidate(1) == 2\n"},
        {"entry_point": "f", "tests": "class TestF:\n    def test_one(self):\n        assert f(1) == 2\n"},
        {"entry_point": "f", "tests": "def check(candidate):\n    assert candidate(1) == 2"},
        {"entry_point": "f", "tests": "def check(candidate):\n    assert candidate(1) == 2\n\ncheck(f)"},
        {"entry_point": "f", "test": "def check(candidate):\n    return candidate(1) == 2\n"},
        {"entry_point": "f", "test": "def check(g):\n    try:\n        assert g(1) == 2\n    except AssertionError:\n"
         "        return False\n    return True\n"},
        {"entry_point": "f", "test": "assert f(1) == 2"},
        {"tests": "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(f(1), 2)\n"},
        {"tests": "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(f(1), 2)\n"
         "if __name__ == '__main__':\n    unittest.main()\n"},
        {"tests": "from unittest import *\nclass T(TestCase):\n    def test(self):\n        assert f(1) == 2\n"
         "main()\n"},
        {"tests": "passed = 0\nfor x in (1, 2):\n    if f(x) == x + 1:\n        passed += 1\nassert passed == 2"},
        {"tests": "def test_f():\n    assert f(1) == 2\n\nall_tests = [test_f]"},
        {"entry_point": "f", "test": "def check(c):\n    return 'no' if c(1) != 2 else True"},
        {"test_list": ["assert math.isclose(f(1), sys.float_info.radix)"]},
        {"code": "def f(x):\n    return x + 1", "test_list": ["assert f(1) == max([2])"]},
        {"tests": "def same(a, b):\n    if a != b:\n        raise ValueError(a)\nsame(f(1), 2)"},
    ],
    ids=range(18),
)  # fmt: skip
def test_what_a_test_runner_would_call_is_called(judge, row):
    assert judged(judge, row, ADD).verdict == "right"
    assert judged(judge, row, BAD).verdict == "wrong"


@pytest.mark.parametrize(
    ("row", "answer", "why"),
    [
        ({"entry_point": "f"}, "def f(x):\n    return x + 1\n", "the tests define f themselves"),
        ({"test_list": ["f(1) == 2"]}, None, "the tests assert nothing about f"),
        ({"entry_point": "f", "tests": "# see appendix"}, None, "the tests assert nothing about f"),
        ({"entry_point": "f", "tests": "import doctest\ndoctest.testmod()"}, None, "the tests assert nothing about f"),
        ({"tests": "async def test_f():\n    assert f(1) == 2"}, None, "test_f cannot be called"),
        ({"tests": "def test_f(x):\n    assert f(x) == 2"}, None, "test_f cannot be called"),
        ({"tests": "def test_f():\n    assert f(1) == 2\n    yield"}, None, "test_f cannot be called"),
        ({"tests": "class TestF:\n    async def test(self): assert f(1) == 2"}, None, "TestF needs a test runner"),
        ({"test_setup_code": "def tests():\n    return f(1)", "test_list": ["map(tests, [])\nf(1)"],
          "entry_point": "f"}, None, "the tests assert nothing about f"),
        ({"test_list": ["assert f(math) == math.pi"]}, None, "the tests use math, which the row does not define"),
        ({"tests": "class TestF:\n    def setup_method(self): pass\n    def test(self): assert f(1) == 2"}, None,
         "TestF needs a test runner"),
        ({"entry_point": "f", "test": "def check(c):\n    try:\n        assert c(1) == 2\n    except AssertionError:\n"
          "        print('no')\n"}, None, "the tests assert nothing about f"),
        ({"entry_point": "f", "test": "def check(c):\n    return c(1) == 2\n\ncheck(f)"}, None, "the tests assert no"),
        ({"entry_point": "f", "test_list": ["assert isclose(f(1), 2.0)"]}, None, "the tests use isclose, which"),
        ({"test_list": ["assert isclose(f(1), 2.0)"]}, None, "the tests call isclose, f, and no entry_point"),
        ({"test_list": ["assert f(1) == ONE"]}, None, "the tests use ONE, which the row does not define"),
        ({"test_list": ["assert f(1) == 2"], "entry_point": "a-b"}, None, "entry_point is no name"),
        ({"test_list": ["assert Solution().f(1) == Solution().g(1)"]}, None, "the tests use 2 methods of Solution"),
        ({"test_list": ["assert Solution(1).f(1) == 2"]}, None, "the tests make a Solution with arguments"),
        ({"code": "def f(x):\n    return one(x)\n", "test": "assert f(1) == one(1) + ONE"}, None,
         "the tests use ONE, one"),
        ({"prompt": "import numpy as np\ndef f(x):\n", "test_list": ["assert f(1) == 2"], "entry_point": "f",
          "test_setup_code": "y = np.array([1])"}, None, "the tests need numpy.array"),
    ],
    ids=range(21),
)  # fmt: skip
def test_tests_that_test_nothing_or_cannot_run_are_named(judge, row, answer, why):
    for text in (ADD, BAD):
        found = judged(judge, row, text, answer)
        assert found.verdict == "unjudged"
        assert found.detail.startswith(f"no tests: {why}")


POLY = "def poly(xs, x):\n    return sum(c * x**i for i, c in enumerate(xs))\n"
ZERO = "```python\ndef find_zero(xs):\n    return -xs[0] / xs[1]\n```"
CHEAT = "```python\ndef find_zero(xs):\n    return 7\ndef poly(*a):\n    return 0\n```"
ABOUT_ZERO = "assert abs(poly([1, 2], find_zero([1, 2]))) < 1e-4"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": f"{POLY}\ndef find_zero(xs):\n    '''A zero.'''\n", "test_list": [ABOUT_ZERO]},
        {"prompt": f"{POLY}\ndef find_zero(xs):\n", "entry_point": "find_zero", "test": ABOUT_ZERO},
        {"test_setup_code": POLY, "test_list": [ABOUT_ZERO]},
        {"code": f"{POLY}\ndef find_zero(xs):\n    return 1\n", "entry_point": "find_zero", "test_list": [ABOUT_ZERO]},
        {"code": f"{POLY}\ndef find_zero(xs):\n    return 1\n", "entry_point": "find_zero", "test": ABOUT_ZERO},
    ],
    ids=["prompt", "prompt-test", "setup", "reference", "code-test"],
)
def test_helpers_of_the_row_are_not_the_program_s(judge, row):
    assert judged(judge, row, ZERO).verdict == "right"
    assert judged(judge, row, CHEAT).verdict == "wrong"


def test_helpers_of_the_row_are_not_collected(judge):
    helpers = "def check(a, b):\n    return a < b\ndef tests():\n    assert False\n"
    row = {"prompt": f"{helpers}\ndef f(x):\n", "test_setup_code": helpers, "test_list": ["assert check(1, f(1))"]}
    assert judged(judge, row, "    return x + 1").verdict == "right"
    assert judged(judge, row, "    return x").verdict == "wrong"


def test_statements_without_an_assertion_are_no_tests_to_be_paid_for(judge, partial):
    row = {"test_list": ["import math", "x = 1", "assert f(x) == 2", "f(3)", "assert 1 == 1"], "entry_point": "f"}
    assert judged(partial, row, ADD).reward == 1
    assert judged(partial, row, BAD).reward == 0
    row = {"test_list": ["data = [1, 2]", "assert f(data) == 3", "y = 4", "assert f([y]) == y"], "entry_point": "f"}
    for one in (judge, partial):
        assert judged(one, row, "def f(x):\n    return sum(x)").verdict == "right"
    found = judged(partial, row, "def f(x):\n    return 3")
    assert (found.verdict, found.reward) == ("wrong", 0.5)


def test_tests_that_need_each_other_are_one(judge, partial):
    row = {"test_list": ["y = f(1)\nassert y == 2", "assert f(y) == 3"], "entry_point": "f"}
    for one in (judge, partial):
        assert judged(one, row, ADD).verdict == "right"
    assert judged(partial, row, "def f(x):\n    return 2").reward == 0


CALLS = {"fn_name": "f", "inputs": [[[1, 2]], [[3]]], "outputs": [3, 3]}


@pytest.mark.parametrize(
    "row",
    [
        CALLS,
        {"test_list": ["assert Solution().f([1, 2]) == 3", "assert Solution().f(nums=[3]) == 3"]},
        {"entry_point": "f", "tests": "s = Solution()\nassert s.f([1, 2]) == 3\nassert s.f([3]) == 3"},
        {"entry_point": "Solution().f", "prompt": "", "test": "def check(candidate):\n"
         "    assert candidate([1, 2]) == 3\n    assert candidate(nums=[3]) == 3\n"},
        {"entry_point": "Solution.f", "tests": "assert Solution().f([1, 2]) == 3\nassert Solution().f([3]) == 3"},
    ],
    ids=["calls", "class", "object", "check", "entry"],
)  # fmt: skip
def test_a_solution_is_a_fresh_object_for_every_call(judge, row):
    for text in (SUM, STATE):
        assert judged(judge, row, text).verdict == "right"
    assert judged(judge, row, SUM.replace("sum", "len")).verdict == "wrong"


def test_a_function_may_have_the_name_of_a_built_in_one(judge):
    row = {"code": "def sum(a, b):\n    return a + b", "test_list": ["assert sum(1, 2) == 3"]}
    assert judged(judge, row, row["code"]).verdict == "right"
    assert judged(judge, row, "def sum(a, b):\n    return a").verdict == "wrong"
    assert judged(judge, {"test_list": row["test_list"]}, row["code"]).verdict == "unjudged"


@pytest.mark.parametrize("starter", ["class Solution:\n    def f(self, nums):\n        pass\n", "def f(nums):\n", ""])
def test_functions_and_methods_answer_calls_alike(judge, starter):
    plain = "```python\ndef f(nums):\n    return sum(nums)\n```"
    odd = plain.replace("def f", "class Solution: pass\ndef f")
    for text in (plain, odd, SUM):
        assert judged(judge, {**CALLS, "starter_code": starter}, text).verdict == "right"


def test_common_names_are_imported_where_sites_do_and_nowhere_else(judge):
    plain = "```python\ndef f(nums: List[int]) -> int:\n    heapify(nums)\n    return pow(sum(nums), 1, 100)\n```"
    late = plain.replace("python\n", "python\nfrom __future__ import annotations\n")
    assert judged(judge, CALLS, plain).verdict == judged(judge, CALLS, late).verdict == "right"
    assert judged(judge, {"test_list": ["assert f([1]) == 1"]}, plain).verdict == "wrong"


def test_integers_that_are_returned_have_no_tolerance():
    row = {"fn_name": "f", "inputs": [[1]], "outputs": [[10**9 + 5, 0.5]]}
    with code_judge(tolerance=1e-6) as judge:
        assert judged(judge, row, "def f(x):\n    return [10**9 + 5, 0.5 + 1e-7]").verdict == "right"
        assert judged(judge, row, "def f(x):\n    return [10**9 + 6, 0.5]").verdict == "wrong"


def test_rules_by_name_need_the_id_of_their_data_set(judge):
    row = {"entry_point": "are_equivalent", "canonical_solution": "def are_equivalent(x):\n    return x == 1\n",
           "base_input": [[1]], "plus_input": []}  # fmt: skip
    text = "def are_equivalent(x):\n    return 'anything'"
    assert judged(judge, {**row, "task_id": "Mbpp/164"}, text).verdict == "right"
    assert judged(judge, {**row, "task_id": "mine/164"}, text).verdict == "wrong"
    assert judged(judge, row, text).verdict == "wrong"


def test_a_reference_that_fails_everywhere_is_no_fault_of_the_program(judge):
    row = {"entry_point": "f", "canonical_solution": "def f(x):\n    return x / 0\n", "base_input": [[1]]}
    found = judged(judge, row, ADD)
    assert found.verdict == "unjudged"
    assert "the reference fails on every input" in found.detail
