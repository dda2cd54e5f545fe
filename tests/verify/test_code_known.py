"""Known numbers: recorded samples, canonical solutions and input-output pairs of the public benchmarks."""

from __future__ import annotations

import ast
import gzip
import json
import math
import random
import re
from pathlib import Path

import pytest

from forkpoint.evaluate.benchmark import load_benchmark, load_problems
from forkpoint.evaluate.judges import close, make_judge
from forkpoint.rollouts import Prompt
from forkpoint.verify.code import code_judge
from forkpoint.verify.code_output import output_judge

DATA = Path(__file__).resolve().parents[2] / "../shared/data/code"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not beside the repository")
SHARE = 40
HEAVY = {"Mbpp/599", "Mbpp/392", "Mbpp/271", "Mbpp/255", "Mbpp/123", "Mbpp/603", "Mbpp/592", "Mbpp/389", "Mbpp/589"}
"""Problems whose inputs take a second and more of the reference alone; the ladder has them."""


def rows(name):
    opened = gzip.open if name.endswith(".gz") else open
    with opened(DATA / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def some(found, every):
    return found if every else random.Random(0).sample(found, SHARE)


def judged(judge, found, text, **fields):
    """Return the ids that are not right, with the reason."""
    prompts = [
        Prompt(id=str(row.get("task_id") or row["id"]), text="", answer=row.get("output"), meta=row) for row in found
    ]
    with judge:
        verdicts = judge(prompts, [text(row) for row in found])
    return {prompt.id: one.detail for prompt, one in zip(prompts, verdicts, strict=True) if one.verdict != "right"}


every = pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"])


def test_the_recorded_samples_have_a_pass_at_1_of_one_half():
    (problem,), samples = rows("example_problem.jsonl"), rows("example_samples.jsonl")
    with code_judge(style="humaneval", deadline=2.0) as judge:
        found = judge([Prompt(id="0", text="", meta=problem)] * 6, [sample["completion"] for sample in samples])
    assert sum(one.reward for one in found) / len(found) == 0.5
    assert [one.verdict == "right" for one in found] == [False, False, False, True, True, True]


@every
def test_canonical_solutions_of_humaneval_pass(every):
    found = rows("HumanEval.jsonl.gz")
    assert len(found) == 164
    assert judged(code_judge(), some(found, every), lambda row: row["canonical_solution"]) == {}


@every
def test_canonical_solutions_of_humaneval_pass_in_a_fence(every):
    found = some(rows("HumanEval.jsonl.gz"), every)
    whole = "It loops.\n```python\n{prompt}{canonical_solution}```\nDone."
    assert judged(code_judge(), found, lambda row: whole.format(**row)) == {}


def test_solutions_of_other_problems_do_not_pass():
    found = rows("HumanEval.jsonl.gz")
    other = {a["task_id"]: b for a, b in zip(found, found[1:] + found[:1], strict=True)}
    wrong = "```python\n{prompt}{canonical_solution}\n{asked} = {entry_point}\n```"
    picked = some(found, False)
    failed = judged(code_judge(), picked, lambda row: wrong.format(asked=row["entry_point"], **other[row["task_id"]]))
    assert len(failed) == len(picked)


@every
def test_canonical_solutions_of_mbpp_plus_pass(every):
    found = rows("MbppPlus.jsonl")
    assert len(found) == 378
    light = [row for row in found if row["task_id"] not in HEAVY]
    named = [row for row in found if row["task_id"] in ("Mbpp/737", "Mbpp/787", "Mbpp/115", "Mbpp/124", "Mbpp/581")]
    settings = load_benchmark("mbpp_plus").verifier.settings
    picked = found if every else named + some(light, False)[: SHARE // 2]
    assert judged(code_judge(**settings), picked, lambda row: f"```python\n{row['canonical_solution']}\n```") == {}


@pytest.mark.filterwarnings("ignore:invalid escape:DeprecationWarning")
def test_every_row_of_mbpp_plus_is_read_with_the_types_that_its_problem_means():
    """The contracts of the rows assert the types of arguments; here they hold for every input."""
    from forkpoint.verify.code_mbpp import arguments_of, number_of

    broken = set()
    for row in rows("MbppPlus.jsonl"):
        tree = ast.parse(row["canonical_solution"])
        head = next(ast.unparse(node.args) for node in tree.body if getattr(node, "name", "") == row["entry_point"])
        scope = {"re": re, "math": math}
        exec(f"def contract({head}):\n{_indented(row['contract'])}\n    return True", scope)
        for arguments in [*row["base_input"], *row["plus_input"]]:
            try:
                scope["contract"](*arguments_of(number_of(row["task_id"]), arguments))
            except AssertionError:
                broken.add(row["task_id"])
    # These two hold inputs that their own contracts refuse.
    assert broken == {"Mbpp/267", "Mbpp/734"}


def _indented(contract):
    lines = contract.expandtabs(4).strip("\n").split("\n")
    depth = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return "\n".join("    " + line[depth:] for line in lines)


def test_outputs_of_cruxeval_verify():
    found = rows("cruxeval.jsonl")
    assert len(found) == 800
    assert judged(output_judge(), found, lambda row: rf"So \boxed{{{row['output']}}}.") == {}
    shifted = dict(zip((row["id"] for row in found), [row["output"] for row in found[1:]] + [""], strict=True))
    # Python's equality, as in the benchmark: `True` is `1`.
    same = sum(ast.literal_eval(row["output"]) == ast.literal_eval(shifted[row["id"]] or "()") for row in found)
    assert len(judged(output_judge(), found, lambda row: rf"\boxed{{{shifted[row['id']]}}}")) == 800 - same


@every
def test_inputs_of_cruxeval_lead_to_their_outputs(every):
    found = rows("cruxeval.jsonl")
    # A call without arguments, and arguments that are no literals.
    rare = [row for row in found if row["id"] in ("sample_135", "sample_258", "sample_344", "sample_694", "sample_720")]
    picked = found if every else rare + some(found, False)
    judge = output_judge(predict="input", extraction="fence")
    assert judged(judge, picked, lambda row: f"```python\nf({row['input']})\n```") == {}


@pytest.mark.parametrize(("name", "file"), [("humaneval", "HumanEval.jsonl.gz"), ("mbpp_plus", "MbppPlus.jsonl")])
def test_benchmarks_find_tests_in_the_rows_as_they_are_asked(name, file, tmp_path):
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(file)), encoding="utf-8")
    benchmark = load_benchmark(name)
    prompts = load_problems(benchmark, path).prompts
    judge = make_judge(benchmark)
    assert judge.unreadable(prompts) == []
    first = {row["task_id"]: row for row in rows(file)}[prompts[0].id]
    answer = f"```python\n{first['prompt'] if name == 'humaneval' else ''}{first['canonical_solution']}\n```"
    found = judge([prompts[0], prompts[1]], [answer, answer])
    close(judge)
    assert [one.verdict for one in found] == ["right", "wrong"]
