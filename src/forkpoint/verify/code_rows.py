"""From a row of a data set and a program to the trials that test it: one function a style of data set.

Every style puts its tests into judges, trusted source that runs in a process of its own and calls the program through
proxies, or compares what a program printed. Which fields a style reads is written at its function. Fields are looked
for in the row's metadata, in its `extra_info`, and in the reference where that is a JSON object.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace

from forkpoint.sandbox import Trial
from forkpoint.verify import code_oracle
from forkpoint.verify.code_asserts import asserts, humaneval, trials_of
from forkpoint.verify.code_case import Case, Fields, NoTests, Reading, list_field, text_field
from forkpoint.verify.code_mbpp import arguments_of, number_of
from forkpoint.verify.code_stdio import PAIRS, stdio
from forkpoint.verify.code_tests import called, numpy_for, parsed
from forkpoint.verify.code_text import defines, program_of

_EVALPLUS = """

inf, nan = float("inf"), float("nan")


def _judge(entry, rule, reference, atol, calls):
    import copy, signal, time

    def late(*_):
        raise RuntimeError("too slow")

    signal.signal(signal.SIGALRM, late)
    scope = {"__name__": "reference"}
    exec(reference, scope)
    tested = 0
    for number, arguments in enumerate(calls):
        began = time.perf_counter()
        try:
            expected = scope[entry](*copy.deepcopy(arguments))
        except Exception:
            continue
        if weight(expected) > HEAVIEST:
            continue
        signal.setitimer(signal.ITIMER_REAL, 2.0 + 4 * (time.perf_counter() - began))
        got = candidate(*arguments)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if rule in FOUND:
            expected = found(expected)
        try:
            fine = agrees(rule, arguments, got, expected, atol)
        except Exception:
            # What a rule cannot even compare is no answer.
            fine = False
        assert fine, f"input {number}"
        tested += 1
    assert tested, "the reference fails on every input"


"""
_FOUND = """

def found__(*arguments):
    found = {entry}(*arguments)
    return found if isinstance(found, bool) else found is not None
"""


def evalplus(row: Fields, text: str, reading: Reading) -> list[Case]:
    """Return the trial of MBPP+ and HumanEval+ (arXiv 2305.01210) in either of their two forms.

    `entry_point`, `canonical_solution`, `base_input`, `plus_input`, `atol`: the judge runs the reference on every input
    and compares; a call has 2 s and four times what the reference took. Inputs on which the reference fails within the
    limits, or whose output is too large to travel, are left out. `code`, `test`: the judge is the test text, which
    holds inputs and expected outputs.
    """
    if "base_input" not in row and "plus_input" not in row:
        return _written(row, text, reading)
    entry, reference = text_field(row, "entry_point"), text_field(row, "canonical_solution")
    prompt = str(row.get("prompt") or "")
    row_id = str(row.get("task_id") or row.get("id") or "")
    number, rule = number_of(row_id), code_oracle.rule_of(entry, row_id)
    inputs = [*list_field(row, "base_input"), *list_field(row, "plus_input")]
    if not inputs:
        raise NoTests("base_input and plus_input are empty")
    calls = [arguments_of(number, arguments) for arguments in inputs]
    if not defines(reference, entry):
        reference = prompt + reference
    judge = (
        f"{inspect.getsource(code_oracle)}{_EVALPLUS}"
        f"_judge({entry!r}, {rule!r}, {reference!r}, {float(row.get('atol') or 0)!r}, {calls!r})\n"
    )
    program = program_of(text, prompt=prompt, entry=entry, stops=reading.stops)
    return [_plain(Case(trial=Trial(program=program, judge=judge, entry=entry)), rule)]


def _plain(case: Case, rule: str) -> Case:
    """Return a case whose program has matches, which cannot travel, made truth values where its rule says so."""
    program = case.trial.program
    if rule not in code_oracle.FOUND or not program.strip():
        return case
    return replace(case, trial=replace(case.trial, program=program + _FOUND.format(entry=rule), entry="found__"))


def _written(row: Fields, text: str, reading: Reading) -> list[Case]:
    """Return the trial of a row whose test text calls the function of its reference by its name."""
    reference, test = text_field(row, "code"), text_field(row, "test")
    tree = parsed(test)
    numpy_for(tree)
    names = [name for name in called(tree) if defines(reference, name)]
    if not names:
        raise NoTests("test calls no function that code defines")
    (case,) = trials_of(row, text, replace(reading, separate=False), [test])
    # Rows in this form have bare numbers or nothing for an id.
    row_id = str(row.get("task_id") or row.get("id") or 0)
    return [
        _plain(case, code_oracle.rule_of(str(case.trial.entry), f"Mbpp/{row_id}" if row_id.isdecimal() else row_id))
    ]


def style_of(row: Fields) -> str:
    """Return the style of a row by its fields, `asserts` where none fits better.

    >>> style_of({"entry_point": "f", "test": ""}), style_of({"input_output": ""}), style_of({"test_list": []})
    ('humaneval', 'stdio', 'asserts')
    """
    if row.keys() & {"base_input", "plus_input"} or {"code", "test"} <= row.keys():
        return "evalplus"
    if {"test", "entry_point"} <= row.keys():
        return "humaneval"
    return "stdio" if row.keys() & {*PAIRS, "inputs", "outputs"} else "asserts"


STYLES: Mapping[str, Callable[[Fields, str, Reading], list[Case]]] = {
    "humaneval": humaneval,
    "evalplus": evalplus,
    "asserts": asserts,
    "stdio": stdio,
}
"""Name of a style -> a function of row, completion and reading."""
