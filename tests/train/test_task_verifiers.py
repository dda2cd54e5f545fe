"""Verifiers of a recipe's `[task]`: programs and proofs as rewards, settings of their own, refusals by name."""

from __future__ import annotations

import json

import pytest

from forkpoint.errors import InputError
from forkpoint.evaluate.judges import close
from forkpoint.train.recipe import load_recipe
from forkpoint.train.setup import make_judge, make_task

GOOD = "```python\ndef double(x):\n    return 2 * x\n```"
BAD = "```python\ndef double(x):\n    return x\n```"


@pytest.fixture
def recipe(tmp_path):
    rows = [{"question": f"Double a number, please ({i}).", "test_list": ["assert double(2) == 4"]} for i in range(2)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(*lines):
        text = (
            f'name = "code"\n[model]\npath = "models/countdown"\n[task]\nname = "data"\nanswer = ""\n\
train = "{tmp_path}/rows.jsonl"\nkeep = ["test_list"]\n'
            + "\n".join(lines)
        )
        (tmp_path / "code.toml").write_text(text + "\n[train]\nsteps = 1\n")
        return load_recipe(tmp_path / "code.toml")

    return make


def test_programs_earn_by_the_tests_of_their_row(recipe):
    task = make_task(recipe('verifier = "code-tests"', 'settings = {style = "asserts", cpu_s = 2.0}'))
    prompts = [task.train_prompt(0, 0)]
    try:
        found = task.judge([prompts[0]] * 2, [GOOD, BAD])
        assert [one.reward for one in found] == [1.0, 0.0]
        assert task.judge.protections().startswith("Sandbox on")
    finally:
        close(task.judge)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['verifier = "code-tests"', 'extraction = "boxed"'], "leave out task.extraction"),
        (['verifier = "code-tests"', "settings = {deadline = 3.0}"], "set task.deadline"),
        (['verifier = "code-tests"', "settings = {cpus = 3.0}"], "did you mean 'cpu_s'"),
        (['verifier = "code-tests"', 'settings = {style = "evalpluss"}'], "did you mean 'evalplus'"),
        (['verifier = "lean"', 'settings = {binary = "no-such-lean"}'], "no-such-lean"),
        (['verifier = "math"', "settings = {binary = 1}"], "no setting 'binary'"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_sampled(recipe, lines, said):
    with pytest.raises(InputError, match=said):
        make_judge(recipe(*lines).task)


def test_the_deadline_of_a_recipe_is_the_verifiers_unless_it_says_so(recipe):
    assert make_judge(recipe('verifier = "code-tests"').task)._limits.wall_s == 8.0
    assert make_judge(recipe('verifier = "code-tests"', "deadline = 3.0").task)._limits.wall_s == 3.0
