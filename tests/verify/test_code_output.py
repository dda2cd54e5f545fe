"""Predicted outputs and inputs: literals here, expressions in the sandbox, no call of what was asked about."""

from __future__ import annotations

import pytest

from forkpoint.errors import InputError
from forkpoint.rollouts import Prompt, Verdict
from forkpoint.sandbox import Outcome
from forkpoint.verify.code_output import output_judge

CODE = "names = [1, 2]\n\ndef f(x, y=1):\n    return sorted(x) * y\n"


@pytest.fixture(scope="module")
def outputs():
    with output_judge() as judge:
        yield judge


@pytest.fixture(scope="module")
def inputs():
    with output_judge(predict="input") as judge:
        yield judge


def verdict(judge, gold, answer):
    (found,) = judge([Prompt(id="p", text="", answer=gold, meta={"code": CODE})], [rf"so \boxed{{{answer}}}"])
    assert found.reward == (found.verdict is Verdict.RIGHT)
    return found.verdict.value


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("[1, (2,)]", "[1,(2, )]", "right"), ("[1, (2,)]", "[1, [2]]", "wrong"), ("'a'", '"a"', "right"),
        ("{'a': 1}", r"\{'a': 1\}", "right"), ("{'a': 1}", r"\texttt{\{'a': 1\}}", "right"),
        ("'a_b'", r"'a\_b'", "right"),
        ("{1, 2}", r"\{2, 1\}", "right"), ("'a'", "a", "wrong"), ("1", "1.0", "right"), ("'1'", "1", "wrong"),
        ("[1]", "assert f(3) == [1]", "right"), ("[1]", "", "wrong"), ("[1, 2]", "f([2, 1])", "wrong"),
        ("[1, 2]", "sorted([2, 1])", "wrong"), ("'aaa'", "'a' * 3", "right"), ("'aaa'", "'a' * 4", "wrong"),
        ("Counter({'a': 1})", "{'a': 1}", "right"), ("{'a': 1}", "Counter({'a': 1})", "right"),
        ("{'a': 1}", "Counter({'a': 2})", "wrong"), ("set()", "set()", "right"), ("'a'", "'a' * 10**12", "wrong"),
        ("[1]", "[1]) or (True", "wrong"), ("1073741824", "2**30", "wrong"), ("{'a': 2}", "Counter('aa')", "wrong"),
        ("255", "int('ff', 16)", "wrong"), ("'5'", "'%d' % 5", "wrong"),
    ],
)  # fmt: skip
def test_outputs(outputs, gold, answer, expected):
    assert verdict(outputs, gold, answer) == expected


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("[1, 2]", "[2, 1]", "right"), ("[1, 2]", "(1, 2)", "right"), ("[1, 2]", "[2, 2]", "wrong"),
        ("[1, 1]", "[1], 2", "right"), ("[1, 1]", "x=[1], y=2", "right"), ("[1, 2]", "f([2, 1])", "right"),
        ("[1, 2]", "assert f([2, 1]) == [1, 2]", "right"), ("[1, 2]", "names[:]", "right"), ("[1]", "", "wrong"),
        ("[1, 2]", "[3]) and [1, 2] or f([3]", "wrong"), ("[1, 2]", "exec('names = 1')", "wrong"),
        ("['a', 'b']", "'b a'.split()", "right"), ("[1]", "[1], 10**12", "wrong"), ("[1]", "1", "wrong"),
    ],
)  # fmt: skip
def test_inputs(inputs, gold, answer, expected):
    assert verdict(inputs, gold, answer) == expected


@pytest.mark.parametrize(
    ("code", "gold", "answer"),
    [
        ("TABLE = {1: 'one'}\ndef f(x):\n    return TABLE.get(x)\n", "'two'", "TABLE.update({2: 'two'}) or 2"),
        ("SEEN = []\ndef f(x):\n    return SEEN\n", "[5]", "SEEN.append(5)"),
        ("SEEN = []\ndef add(x):\n    SEEN.append(x)\ndef f(x):\n    return SEEN\n", "[5]", "add(5)"),
    ],
)
def test_an_argument_does_not_change_what_the_program_holds(inputs, code, gold, answer):
    (found,) = inputs([Prompt(id="p", text="", answer=gold, meta={"code": code})], [rf"\boxed{{{answer}}}"])
    assert found.verdict is Verdict.WRONG


@pytest.mark.parametrize(
    ("meta", "gold", "why"),
    [
        ({}, None, "no reference"),
        ({}, " ", "no reference"),
        ({}, "f(1)", "the reference is no value"),
        ({}, "1", "no code"),
    ],
)
def test_rows_that_cannot_be_judged(inputs, meta, gold, why):
    prompt = Prompt(id="p", text="", answer=gold, meta=meta)
    (found,) = inputs([prompt], [r"\boxed{1}"])
    assert (found.verdict, found.detail) == (Verdict.UNJUDGED, why)
    assert inputs.unreadable([prompt]) == [("p", why)]


@pytest.mark.parametrize("text", ["", "no box", "\0", "\ud800", r"\boxed{" + "[" * 10**6 + "}", "\\boxed{'\ud800'}"])
def test_answers_that_are_no_values(outputs, inputs, text):
    for judge in (outputs, inputs):
        (found,) = judge([Prompt(id="p", text="", answer="1", meta={"code": CODE})], [text])
        assert found.verdict is Verdict.WRONG


def test_where_answers_stand():
    for extraction, text in (
        ("tags", "[ANSWER]assert f(1) == 5[/ANSWER]"), ("tags", "[ANSWER] 5"), ("whole", " 5 "),
        ("fence", "```python\nassert f(1) == 5\n```"), ("a-line", "A: 5"),
    ):  # fmt: skip
        with output_judge(extraction=extraction) as judge:
            assert judge([Prompt(id="p", text="", answer="5")], [text])[0].verdict is Verdict.RIGHT


def test_a_trial_that_was_not_run_is_not_judged(monkeypatch):
    class Refusing:
        def __init__(self, *_):
            pass

        def map(self, trials):
            return [Outcome(passed=False, ran=False, reason="sandbox failed") for _ in trials]

    monkeypatch.setattr("forkpoint.verify.code_pool.Pool", Refusing)
    (found,) = output_judge()([Prompt(id="p", text="", answer="'a'")], [r"\boxed{'a' * 1}"])
    assert (found.verdict, found.detail) == (Verdict.UNJUDGED, "sandbox: sandbox failed")


def test_a_sandbox_that_fails_is_not_held_against_an_answer(monkeypatch):
    class Broken:
        def __init__(self, *_):
            raise OSError("no more processes")

    monkeypatch.setattr("forkpoint.verify.code_pool.Pool", Broken)
    texts = [r"\boxed{'a' * 1}", r"\boxed{'a'}"]
    found = output_judge()([Prompt(id="p", text="", answer="'a'")] * 2, texts)
    assert [one.verdict for one in found] == [Verdict.UNJUDGED, Verdict.RIGHT]
    assert found[0].detail == "sandbox: OSError: no more processes"


@pytest.mark.parametrize(
    "settings", [{"extraction": "x"}, {"predict": "x"}, {"workers": 0}, {"deadline": 0}, {"cpu_s": 0}, {"memory_mb": 0}]
)
def test_settings_out_of_range(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        output_judge(**settings)
