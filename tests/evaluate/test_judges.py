"""Verifiers by name: what is known, what is refused, references that cannot be judged, equality for votes."""

from __future__ import annotations

import pytest

from forkpoint.errors import InputError
from forkpoint.evaluate.benchmark import Benchmark, Verifying, load_benchmark
from forkpoint.evaluate.judges import close, equality, extraction, make_judge, surroundings, unreadable
from forkpoint.rollouts import Prompt, Verdict


def benchmark(name, **settings):
    return Benchmark(name="b", title="t", licence="l", verifier=Verifying(name=name, **settings))


@pytest.mark.parametrize("name", ["humaneval", "mbpp_plus", "cruxeval"])
def test_benchmarks_that_run_programs_have_a_judge_and_say_what_holds_them_back(name):
    close(make_judge(load_benchmark(name)))
    assert surroundings(load_benchmark(name)).startswith("sandbox on ")
    assert surroundings(load_benchmark("aime24")) == ""


def test_rows_without_tests_are_named_before_anything_is_sampled():
    judge = make_judge(load_benchmark("humaneval"))
    row = {"entry_point": "f", "test": "def check(candidate):\n    assert candidate(1) == 2"}
    prompts = [Prompt(id="whole", text="", meta=row), Prompt(id="bare", text="", meta={"entry_point": "f"})]
    assert unreadable(prompts, judge) == [("bare", "no tests: test is missing")]
    assert judge._pool is None, "nothing was to be run"


def test_votes_on_python_values():
    cruxeval = load_benchmark("cruxeval")
    with make_judge(cruxeval) as judge:
        equal = equality(cruxeval, judge)
        assert equal("[1, 2]", "[1,2]")
        assert equal("{'a': 1, 'b': 2}", "{'b': 2, 'a': 1}")
        assert not equal("'a'", "'A'")
        assert not equal("'1'", "1")
        assert not equal("(1, 2)", "[1, 2]")
        assert not equal("1,000", "1000")


def test_names_and_settings_that_are_unknown():
    with pytest.raises(InputError, match=r"no known verifier, 'maths': did you mean 'math'\?"):
        make_judge(benchmark("maths"))
    with pytest.raises(InputError, match=r"'exact' has no setting 'extractoin'; did you mean 'extraction'\?"):
        make_judge(benchmark("exact", extractoin="boxed"))


def test_settings_reach_the_verifier():
    judge = make_judge(benchmark("exact", extraction="gsm8k"))
    prompt = Prompt(id="1", text="", answer="5")
    verdicts = [one.verdict for one in judge([prompt] * 2, ["#### 5", r"\boxed{5}"])]
    assert verdicts == [Verdict.RIGHT, Verdict.WRONG]


def test_what_is_taken_out():
    assert extraction(benchmark("math"))(r"so \boxed{3}") == "3"
    assert extraction(benchmark("exact", extraction="gsm8k"))("#### 4") == "4"
    assert extraction(benchmark("countdown")) is None
    assert extraction(load_benchmark("cruxeval"))(r"\boxed{[1]}") == "[1]"


def test_references_and_equality():
    judge = make_judge(benchmark("math"))
    try:
        answers = ["5", r"\frac{1}{2}", "", None, r"\left( 3, \frac{\pi}{2} \right)", r"\frac{"]
        prompts = [Prompt(id=str(i), text="", answer=answer) for i, answer in enumerate(answers)]
        assert [name for name, _ in unreadable(prompts, judge)] == ["2", "3", "5"]
        equal = equality(benchmark("math"), judge)
        assert equal("1/2", "0.5")
        assert not equal("1/2", "0.6")
        assert equal("x+1", "1+x")
        assert not equal("x+1", "x+2")
    finally:
        close(judge)


def test_votes_on_answers_whose_rule_stands_in_the_problem():
    olympiad = load_benchmark("olympiadbench")
    judge = make_judge(olympiad)
    assert judge([Prompt(id="1", text="", answer="x")], [r"\boxed{y}"])[0].verdict is Verdict.UNJUDGED
    equal = equality(olympiad, judge)
    assert equal("x+1", "1+x")
    assert not equal("x+1", "x+2")
    close(judge)
