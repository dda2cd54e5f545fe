"""From a row of a data set and a program to the trials that test it: one function a style of data set.

Every style puts its tests into judges, trusted source that runs in a process of its own and calls the program through
proxies, or compares what a program printed. Which fields a style reads is written at its function. Fields are looked
for in the row's metadata, in its `extra_info`, and in the reference where that is a JSON object.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import sys
from collections.abc import Callable, Mapping

from forkpoint.sandbox import Trial
from forkpoint.verify import code_oracle
from forkpoint.verify.code_case import Case, Fields, NoTests, Reading, from_json, list_field, text_field
from forkpoint.verify.code_mbpp import arguments_of, number_of
from forkpoint.verify.code_stdio import PAIRS, stdio
from forkpoint.verify.code_text import defines, preamble, program_of


def humaneval(row: Fields, text: str, reading: Reading) -> list[Case]:
    """Return the trial of HumanEval (arXiv 2107.03374): `prompt`, `test` with `check(candidate)`, `entry_point`.

    The judge has the helper functions of the prompt, which some tests call.
    """
    prompt, entry, test = str(row.get("prompt") or ""), text_field(row, "entry_point"), text_field(row, "test")
    program = program_of(text, prompt=prompt, entry=entry, stops=reading.stops)
    # One test calls the function by its name as well.
    judge = f"{_imports(test)}{preamble(prompt, entry)}\n{entry} = candidate\n{test}\ncheck(candidate)\n"
    return [Case(trial=Trial(program=program, judge=judge, entry=entry))]


_EVALPLUS = """

inf, nan = float("inf"), float("nan")


def _judge(entry, reference, atol, calls):
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
        if entry in FOUND:
            expected = found(expected)
        assert agrees(entry, arguments, got, expected, atol), f"input {number}"
        tested += 1
    assert tested, "the reference fails on every input"


"""
_NUMPY = """
import sys, types

inf, nan = float("inf"), float("nan")
numpy = types.ModuleType("numpy")
numpy.ndarray = numpy.float32 = numpy.float64 = type("ndarray", (), {})
numpy.allclose = lambda got, expected, rtol=1e-5, atol=1e-8: close(got, expected, atol, rtol)


def _assert_allclose(got, expected, rtol=1e-7, atol=0):
    assert close(got, expected, atol, rtol)


numpy.testing = types.SimpleNamespace(assert_allclose=_assert_allclose)
sys.modules["numpy"] = numpy
"""
"""What test texts of MBPP+ and HumanEval+ use of numpy, which judges do not have."""
_IMPORTED = re.compile(r"^[ \t]*(?:import|from)[ \t]+(\w+)", re.MULTILINE)
_USED = re.compile(r"\b(?:np|numpy)\.(\w+)")
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
    number = number_of(row.get("task_id") or row.get("id"))
    inputs = [*list_field(row, "base_input"), *list_field(row, "plus_input")]
    if not inputs:
        raise NoTests("base_input and plus_input are empty")
    calls = [arguments_of(number, arguments) for arguments in inputs]
    if not defines(reference, entry):
        reference = prompt + reference
    judge = (
        f"{inspect.getsource(code_oracle)}{_EVALPLUS}"
        f"_judge({entry!r}, {reference!r}, {float(row.get('atol') or 0)!r}, {calls!r})\n"
    )
    program, name = _plain(program_of(text, prompt=prompt, entry=entry, stops=reading.stops), entry)
    return [Case(trial=Trial(program=program, judge=judge, entry=name))]


def _plain(program: str, entry: str) -> tuple[str, str]:
    """Return a program and the function to call in it: matches, which cannot travel, are made truth values there."""
    if entry not in code_oracle.FOUND or not program.strip():
        return program, entry
    return program + _FOUND.format(entry=entry), "found__"


def asserts(row: Fields, text: str, reading: Reading) -> list[Case]:
    """Return the trials of rows like those of MBPP (arXiv 2108.07732), whose tests call the function by its name.

    `test_list`, `assert_case`, `asserts`, `assertion` or `tests`: a list of statements or one text. Before them run
    `test_setup_code` or `test_imports`. `entry_point` names the function, else the first that the tests call does.
    """
    tests = next((row[name] for name in _ASSERTS if row.get(name)), None)
    if isinstance(tests, str):
        value = from_json(tests)
        tests = value if isinstance(value, list) else [tests]
    if not isinstance(tests, list | tuple) or not tests or not all(map(_statement, tests)):
        raise NoTests(f"none of {', '.join(_ASSERTS)} holds assert statements")
    setup = row.get("test_setup_code") or row.get("test_imports") or ""
    head = setup if isinstance(setup, str) else "\n".join(map(str, setup))
    whole = "\n".join([head, *tests])
    head, names = _imports(whole) + head, called(whole)
    entry = row.get("entry_point") or next(iter(names), None)
    if not isinstance(entry, str):
        raise NoTests("the tests call no function")
    program = program_of(text, prompt=str(row.get("prompt") or ""), entry=entry, stops=reading.stops)
    bound = "".join(f"{name} = remote({name!r})\n" for name in dict.fromkeys([entry, *names]))
    groups = [[test] for test in tests] if reading.separate else [list(tests)]
    return [
        Case(trial=Trial(program=program, judge="\n".join([head, bound, *group]) + "\n", entry=entry))
        for group in groups
    ]


_ASSERTS = ("test_list", "assert_case", "asserts", "assertion", "tests")


def called(source: str) -> list[str]:
    r"""Return the names that Python calls and nobody there defines, imports or provides, in order.

    >>> called("import math\nassert math.sqrt(f(4)) == len(g([1]))")
    ['f', 'g']
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NoTests(f"the tests are no Python ({type(error).__name__})") from None
    made = {*dir(builtins), "candidate", "remote"}
    found: list[ast.Name] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Store):
                made.add(node.id)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found.append(node.func)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.arg):
            made.add(node.arg)
    found.sort(key=lambda name: (name.lineno, name.col_offset))
    return [name for name in dict.fromkeys(node.id for node in found) if name not in made]


def _statement(test: object) -> bool:
    return isinstance(test, str) and bool(test.strip())


def _written(row: Fields, text: str, reading: Reading) -> list[Case]:
    """Return the trial of a row whose test text calls the functions of its reference by their names."""
    reference, test = text_field(row, "code"), text_field(row, "test")
    names = [name for name in called(test) if defines(reference, name)]
    if not names:
        raise NoTests("test calls no function that code defines")
    entry = names[-1]
    program, plain = _plain(
        program_of(text, prompt=str(row.get("prompt") or ""), entry=entry, stops=reading.stops), entry
    )
    bound = "".join(f"{name} = remote({(plain if name == entry else name)!r})\n" for name in names)
    return [Case(trial=Trial(program=program, judge=f"{_imports(test)}{bound}{test}\n", entry=plain))]


def _imports(test: str) -> str:
    """Return what must stand before a test that imports numpy; nothing for others.

    Raises:
        NoTests: It imports what a judge does not have.
    """
    modules = set(_IMPORTED.findall(test)) - sys.stdlib_module_names
    used = set(_USED.findall(test)) - {"allclose", "ndarray", "float32", "float64", "testing"}
    lacking = sorted(modules - {"numpy"}) or sorted(f"numpy.{name}" for name in used if "numpy" in modules)
    if lacking:
        raise NoTests(f"the tests need {', '.join(lacking)}, and only the standard library is there")
    return f"{inspect.getsource(code_oracle)}{_NUMPY}" if modules else ""


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
