"""Programs judged by tests: every style of rows, bad rows, bad answers, cheats, failures of the sandbox."""

from __future__ import annotations

import json

import pytest

from forkpoint.errors import InputError
from forkpoint.rollouts import Prompt, Verdict
from forkpoint.sandbox import Outcome
from forkpoint.verify.code import code_judge
from forkpoint.verify.code_asserts import asserts, humaneval
from forkpoint.verify.code_case import NoTests, Reading, fields_of
from forkpoint.verify.code_rows import STYLES, style_of
from forkpoint.verify.code_stdio import printed
from forkpoint.verify.code_tests import called, parsed

HUMANEVAL = {
    "prompt": 'def helper(x):\n    return x + 1\n\ndef f(x):\n    """Add two."""\n',
    "entry_point": "f",
    "test": "def check(candidate):\n    assert candidate(1) == helper(2)\n    assert f(2) == 4\n",
}
PLUS = {
    "task_id": "Mbpp/106", "entry_point": "f", "canonical_solution": "def f(xs, t):\n    return t + tuple(xs)\n",
    "base_input": [[[1], [2]]], "plus_input": [[[0.1, 3.5], []]], "atol": 0,
}  # fmt: skip
WRITTEN = {
    "prompt": "Write a function to add one.",
    "code": "def f(x):\n    return x + 1\n",
    "test": "import numpy as np\n\ndef assertion(out, exp, atol):\n    if out != exp:\n"
    "        assert np.allclose(out, exp, rtol=1e-07, atol=atol)\n\ninputs = [[1], [0.2]]\nresults = [2, 1.2]\n"
    "for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion(f(*inp), exp, 1e-6)\n",
}
ASSERTS = {
    "test_list": ["assert f(1) == 2", "assert f([0])[0] == 1", "assert g(f(2)) == -3"],
    "test_setup_code": "import math\ndef g(x):\n    return -x",
}
STDIO = {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7.0000001\n"]}
CALLS = {"input_output": json.dumps({"fn_name": "f", "inputs": [[1, 2], [[1], [2]]], "outputs": [3, [[1, 2]]]})}
ADD = "def f(x):\n    return x + 1\n"


@pytest.fixture(scope="module")
def judge():
    with code_judge(tolerance=1e-6) as found:
        yield found


def verdict(judge, row, text, answer=None):
    (found,) = judge([Prompt(id="p", text="", answer=answer, meta=row)], [text])
    assert found.reward == (found.verdict is Verdict.RIGHT)
    return found.verdict.value


@pytest.mark.parametrize(
    ("row", "right", "wrong"),
    [
        (HUMANEVAL, "    return helper(helper(x))", "    return x"),
        (HUMANEVAL, "```python\ndef f(x):\n    return x + 2\n```", "```python\ndef f(x):\n    return x + 3\n```"),
        (PLUS, "def f(xs, t):\n    return (*t, *xs)", "def f(xs, t):\n    return [*t, *xs]"),
        (PLUS, "def f(xs, t):\n    return t + tuple(x * 3 / 3 for x in xs)", "def f(xs, t):\n    return t"),
        (WRITTEN, ADD, "def f(x):\n    return x"),
        (WRITTEN, "def f(x):\n    return x + 1 + 1e-8", "def f(x):\n    return x + 1.001"),
        (ASSERTS, "def f(x):\n    return x + 1 if x != [0] else [1]", ADD),
        (STDIO, "print(sum(map(int, input().split())))", "print(3)"),
        (STDIO, "a, b = map(int, input().split())\nprint('', a + b, '\\n\\n')", "print(0)"),
        (CALLS, "def f(a, b):\n    return a + b", "def f(a, b):\n    return a"),
        (CALLS, "class Solution:\n    def f(self, a, b):\n        return a + b", "class Solution:\n    pass"),
        ({"public_tests": {"input": ["x"], "output": ["x"]}}, "print(input())", "print()"),
        ({"extra_info": {"test_list": ["assert f(1) == 2"]}}, ADD, "def f(x):\n    return 1"),
    ],
    ids=range(13),
)
def test_styles_tell_right_from_wrong(judge, row, right, wrong):
    assert verdict(judge, row, right) == "right"
    assert verdict(judge, row, wrong) == "wrong"


def test_tests_may_stand_in_the_reference(judge):
    assert verdict(judge, {}, ADD, answer="assert f(1) == 2") == "right"
    assert verdict(judge, {}, ADD, answer='["assert f(1) == 2", "assert f(1) == 3"]') == "wrong"
    assert verdict(judge, {}, "print(input())", answer=json.dumps({"inputs": ["1"], "outputs": ["1"]})) == "right"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({}, "no tests: none of test_list, assert_case"),
        ({"test_list": []}, "no tests: none of"),
        ({"test_list": [3]}, "no tests: none of"),
        ({"test_list": ["assert 1 == 1"]}, "no tests: the tests call no function"),
        ({"test_list": ["assert f(1)"], "test_imports": ["import pandas as pd"]}, "no tests: the tests need pandas"),
        (
            {"entry_point": "f", "test": "import numpy as np\nnp.array(f())"},
            "no tests: the tests need numpy.array",
        ),
        ({"code": "def f(): pass", "test": "from scipy import stats\nf()"}, "no tests: the tests need scipy, and only"),
        ({"test_list": ["assert f("]}, "no tests: the tests are no Python (SyntaxError)"),
        ({"entry_point": "f", "test": ""}, "no tests: test is empty"),
        ({"entry_point": None, "test": "x"}, "no tests: entry_point is missing"),
        ({**PLUS, "base_input": [], "plus_input": {}}, "no tests: base_input and plus_input are empty"),
        ({**PLUS, "base_input": "x"}, "no tests: base_input is no list"),
        ({**PLUS, "base_input": [3]}, "row: TypeError"),
        ({"code": "def f(): pass", "test": "g()"}, "no tests: test calls no function that code defines"),
        ({"inputs": [1], "outputs": []}, "no tests: 1 inputs and 0 outputs"),
        ({"input_output": "{"}, "no tests: neither inputs with outputs nor"),
        ({"inputs": [1], "outputs": [1], "fn_name": "a b"}, "no tests: fn_name is no name"),
        ({"inputs": [1], "outputs": [1], "fn_name": "f"}, "no tests: the inputs of f are no lists"),
        ({"inputs": [[1]], "outputs": [None], "fn_name": "f"}, "no tests: f returns nothing in any test"),
        ({"inputs": ["1"], "outputs": [" \n"]}, "no tests: every output is blank"),
        ({"inputs": ["1", "2"], "outputs": ["1", None]}, "no tests: output 2 is missing"),
        ({"inputs": ["1"], "outputs": ["x" * (1 << 20) + "x"]}, "no tests: output 1 is longer than the 1,048,576"),
    ],
    ids=range(22),
)
def test_rows_without_tests_are_not_judged_and_named(judge, row, why):
    prompt = Prompt(id="p", text="", meta=row)
    (found,) = judge([prompt], [ADD])
    assert (found.verdict, found.reward) == (Verdict.UNJUDGED, 0.0)
    assert found.detail.startswith(why)
    assert judge.unreadable([prompt]) == [("p", found.detail)] or found.detail.endswith("…") or len(found.detail) == 120


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no program"), ("  \n", "no program"), ("```python\n```", "no program"), (ADD + "\0", "null character"),
        ("x = '\udcff'", "half a character"), ("x" * 10**7, "longer than 100,000 characters"),
        ("I would rather not.", "syntax error"), (r"\boxed{7}", "syntax error"), ("def g(): pass", "no function"),
    ],
)  # fmt: skip
def test_answers_that_are_no_program(judge, text, why):
    (found,) = judge([Prompt(id="p", text="", meta=ASSERTS)], [text])
    assert (found.verdict, found.reward) == (Verdict.WRONG, 0.0)
    assert why in found.detail


@pytest.mark.parametrize(
    "text",
    [
        "import sys\nsys.exit(0)",
        "class Same(int):\n    def __eq__(self, other):\n        return True\ndef f(x):\n    return Same()\ng = f",
        "def f(x):\n    raise SystemExit(0)\ng = f",
        "import builtins\nbuiltins.AssertionError = type('E', (BaseException,), {})\ndef f(x): return 0\ng = f",
        "def f(x):\n    while True: pass",
        "print('passed')\ndef check(*a): pass\ndef f(x): return x\ng = f",
    ],
)
def test_cheats_are_wrong(text):
    with code_judge(cpu_s=0.5, deadline=1.5) as judge:
        plain = {**PLUS, "task_id": "x", "canonical_solution": "def f(xs, t):\n    return [*t, *xs]\n"}
        for row in (ASSERTS, HUMANEVAL, plain, WRITTEN):
            assert verdict(judge, row, text) == "wrong"


def test_outputs_too_large_to_travel_are_left_out_and_slow_calls_end():
    reference = "def f(n):\n    return list(range(n))"
    row = {"entry_point": "f", "canonical_solution": reference, "base_input": [[3], [2 * 10**6]]}
    slow = "import time\ndef f(n):\n    time.sleep(n)\n    return list(range(n))"
    with code_judge(deadline=60.0) as judge:
        right, late = judge([Prompt(id="p", text="", meta=row)] * 2, [reference, slow])
    assert right.verdict is Verdict.RIGHT
    assert (late.verdict, "too slow" in late.detail) == (Verdict.WRONG, True)


def test_a_slow_reference_is_not_interrupted_by_the_clock_of_the_call_before(judge):
    reference = "import time\ndef f(n):\n    time.sleep(0.2)\n    return n"
    row = {"entry_point": "f", "canonical_solution": reference, "base_input": [[1], [2]]}
    assert verdict(judge, row, "def f(n):\n    return n") == "right"
    assert verdict(judge, row, "def f(n):\n    return 1") == "wrong"


def test_a_partial_reward_is_the_share_of_tests_passed():
    with code_judge(partial=True) as judge:
        rows = [ASSERTS, ASSERTS, STDIO, HUMANEVAL]
        two = "def f(x):\n    return 2"
        found = judge([Prompt(id="p", text="", meta=row) for row in rows], [ADD, two, "print(3)", "    return x"])
        # Of three assertions f([0]) fails for both, f(2) for the second; one of two outputs; tests of one piece.
        assert [one.reward for one in found] == pytest.approx([2 / 3, 1 / 3, 1 / 2, 0.0])
        assert {one.verdict for one in found} == {Verdict.WRONG}


class CountingPool:
    """A pool that runs nothing: every trial passes whose program does not say `bad` at its standard input."""

    def __init__(self, *_):
        self.trials, self.calls = [], 0

    def map(self, trials):
        self.trials += trials
        self.calls += 1
        return [Outcome(passed=True, reason="", stdout="no" if one.stdin in one.program else "yes") for one in trials]

    def close(self):
        pass


def test_who_fails_is_not_run_further_and_equal_answers_run_once(monkeypatch):
    pool = CountingPool()
    monkeypatch.setattr("forkpoint.verify.code_pool.Pool", lambda *_: pool)
    row = {"inputs": [f"<{i}>" for i in range(31)], "outputs": ["yes"] * 31}
    texts = ["fine", "# <0>", "# <2>", "fine"]
    found = code_judge()([Prompt(id="p", text="", meta=row)] * 4, texts)
    assert [one.verdict.value for one in found] == ["right", "wrong", "wrong", "right"]
    counts = [sum(trial.program == text for trial in pool.trials) for text in texts]
    # Waves of 1, 2, 4, 8 and 16: failing the first test costs one run, failing the third those of two waves.
    assert counts == [31, 1, 3, 31]
    assert pool.calls == 5


class FailingPool:
    def __init__(self, *_):
        pass

    def map(self, trials):
        for number, _ in enumerate(trials):
            if number == 1:
                yield Outcome(passed=False, ran=False, reason="the keeper died")
            elif number == 2:
                raise OSError("no more processes")
            else:
                yield Outcome(passed=True, reason="passed")

    def close(self):
        pass


@pytest.mark.parametrize(
    ("count", "details"), [(2, ["", "sandbox: the keeper died"]), (3, ["sandbox: OSError: no"] * 3)]
)
def test_failures_of_the_sandbox_are_not_judged_and_do_not_raise(monkeypatch, count, details):
    monkeypatch.setattr("forkpoint.verify.code_pool.Pool", FailingPool)
    found = code_judge()([Prompt(id="p", text="", meta=HUMANEVAL)] * count, [f"    return {i}" for i in range(count)])
    for one, detail in zip(found, details, strict=True):
        assert (one.verdict is Verdict.UNJUDGED) is bool(detail)
        assert one.detail.startswith(detail)


def test_a_judge_works_again_after_it_was_closed():
    judge = code_judge(workers=1)
    for _ in range(2):
        assert verdict(judge, HUMANEVAL, "    return x + 2") == "right"
        judge.close()
    judge.close()


@pytest.mark.parametrize(
    "settings",
    [{"style": "x"}, {"workers": 0}, {"deadline": 0}, {"cpu_s": -1.0}, {"memory_mb": 0}, {"tolerance": -1.0},
     {"memory_mb": 1}, {"deadline": float("nan")}],
)  # fmt: skip
def test_settings_out_of_range(settings):
    with pytest.raises(InputError, match=str(next(iter(settings)).partition("_")[0])):
        code_judge(**settings)


def test_styles_are_told_by_their_fields():
    rows = {"humaneval": HUMANEVAL, "evalplus": PLUS, "asserts": ASSERTS, "stdio": STDIO}
    assert {name: style_of(row) for name, row in rows.items()} == {name: name for name in STYLES}
    assert style_of(WRITTEN) == "evalplus"
    assert style_of(json.loads('{"generated_tests": {}}')) == "stdio"


def test_metadata_stand_over_extra_information_over_the_reference():
    prompt = Prompt(id="1", text="", answer='{"a": 1, "b": 1, "c": 1}', meta={"extra_info": {"b": 2, "c": 2}, "c": 3})
    assert {name: fields_of(prompt)[name] for name in "abc"} == {"a": 1, "b": 2, "c": 3}


def test_names_that_tests_call():
    text = "def check(c):\n    c(1)\n    h()\nfrom a import b\nb()\nx = f(g())\nx()\nprint(1)"
    assert called(parsed(text)) == ["h", "f", "g"]
    with pytest.raises(NoTests):
        parsed("(")


def test_judges_are_trusted_source_and_programs_are_not_in_them():
    (case,) = humaneval(HUMANEVAL, "    return 'stolen'", Reading())
    assert "stolen" in case.trial.program
    assert "stolen" not in case.trial.judge
    assert len(asserts(ASSERTS, ADD, Reading(separate=True))) == 3


@pytest.mark.parametrize(
    ("got", "expected", "tolerance", "fine"),
    [
        ("1\n2\n", "1\n2", 0, True), ("1 2", "1  2 ", 0, True), ("1\n\n2", "1\n2", 0, False), ("\n1", "1", 0, True),
        ("12", "1 2", 0, False), ("1.0", "1", 0, False), ("1.0", "1", 1e-9, True), ("nan", "nan", 1e-9, True),
        ("nan", "1", 1e9, False), ("inf", "1", 1e-9, False), ("1 a", "1.0 a", 1e-9, True),
        ("1 a", "1.0 b", 1e-9, False),
        ("1000001.0", "1000000", 1e-5, True), ("1000001", "1000000", 1e-5, False), ("0101", "101", 1e-5, False),
        ("5", "inf", 1e-6, False), ("5", "1e999", 1e-6, False), ("5", "9" * 400, 1e-6, False),
        ("5.0", "9" * 400 + ".0", 1e-6, False), ("1_0", "10.0", 1e-6, False), (".5e1", "+5.", 1e-6, True),
        ("0.1", "0.2", 0.05, False), ("", "", 0, True), ("", "1", 0, False),
        ("1\r\n", "1\n", 0, True), ("1\n2", "1 2", 0, False), ("1\n2", "1 2", 1.0, False),
    ],
)  # fmt: skip
def test_printed_lines(got, expected, tolerance, fine):
    assert printed(got, expected, tolerance=tolerance) is fine
