"""Tests that are Python: assertions, `check(candidate)`, functions and classes that a test runner would collect."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeGuard

from forkpoint.sandbox import Trial
from forkpoint.verify.code_case import Case, Fields, NoTests, Reading, from_json, text_field
from forkpoint.verify.code_stdio import COMMON
from forkpoint.verify.code_tests import Followed, called, checks, follow, made, numpy_for, parsed, unimported, unknown
from forkpoint.verify.code_text import behind, preamble, program_of

FIELDS = ("test_list", "assert_case", "asserts", "assertion", "tests")
"""Fields that may hold assertions."""
_ENTRY = re.compile(r"(?:(\w+)(?:\(\))?\.)?(\w+)")
_CASES = """
def cases__():
    import io, sys, unittest
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"])
    result = unittest.TextTestRunner(stream=io.StringIO(), failfast=True).run(suite)
    for _, text in result.failures + result.errors:
        raise AssertionError(text.strip().rpartition("\\n")[2])
    assert result.wasSuccessful(), "unexpected success"


cases__()
"""
_QUIET = "import unittest\nunittest.main = lambda *arguments, **options: None\n"
"""Cases run once, at the end; `unittest.main` would end the judge."""


@dataclass(frozen=True, kw_only=True)
class _Target:
    """What a row asks for."""

    defined: str
    """The function, or the class whose method it is, that a program defines."""
    method: str | None = None

    @property
    def entry(self) -> str:
        """What the sandbox calls; a method gets a fresh object for every call."""
        return f"{self.defined}.{self.method}" if self.method else self.defined

    def bound(self) -> str:
        """Return what gives the judge the name that tests call."""
        if self.method is None:
            return f"{self.defined} = candidate\n"
        return (
            f"class {self.defined}:\n    def {self.method}(self, *arguments, **options):\n"
            "        return candidate(*arguments, **options)\n"
        )


def asserts(row: Fields, text: str, reading: Reading) -> list[Case]:
    """Return the trials of rows like those of MBPP (arXiv 2108.07732), whose tests call the function by its name.

    `test_list`, `assert_case`, `asserts`, `assertion` or `tests`: a list of statements or one text. Before them run
    `test_setup_code` or `test_imports`. `entry_point` names the function, else the only one that the tests call does.
    """
    tests = next((row[name] for name in FIELDS if row.get(name)), None)
    if isinstance(tests, str):
        value = from_json(tests)
        tests = value if isinstance(value, list) else [tests]
    if not isinstance(tests, list | tuple) or not tests or not all(map(_statement, tests)):
        raise NoTests(f"none of {', '.join(FIELDS)} holds assert statements")
    return trials_of(row, text, reading, tests)


def humaneval(row: Fields, text: str, reading: Reading) -> list[Case]:
    """Return the trial of HumanEval (arXiv 2107.03374): `prompt`, `test` with `check(candidate)`, `entry_point`."""
    text_field(row, "entry_point")
    return trials_of(row, text, reading, [text_field(row, "test")])


def trials_of(row: Fields, text: str, reading: Reading, tests: Sequence[str]) -> list[Case]:
    """Return the trials of a program by test texts, one a text that asserts something where they are told apart.

    What the row itself defines beside the function asked for, in prompt, setup and reference, the judge has of its
    own: a program cannot replace it. Functions and classes that test runners collect are called, and so is `check`.

    Raises:
        NoTests: The tests are no Python, need what is not there, or assert nothing about the function.
    """
    prompt, setup = str(row.get("prompt") or ""), row.get("test_setup_code") or row.get("test_imports") or ""
    head = setup if isinstance(setup, str) else "\n".join(map(str, setup))
    entry, reference = row.get("entry_point"), row.get("code") or row.get("canonical_solution")
    target, judges = _judges(
        tuple(tests), head, prompt, reference if isinstance(reference, str) else "",
        entry if isinstance(entry, str) and entry.strip() else None, reading.separate,
    )  # fmt: skip
    program = program_of(text, prompt=prompt, entry=target.defined, stops=reading.stops)
    if target.method and program.strip():
        program = behind(COMMON, program)
    return [Case(trial=Trial(program=program, judge=judge, entry=target.entry)) for judge in judges]


@lru_cache(maxsize=64)
def _judges(
    tests: tuple[str, ...], setup: str, prompt: str, reference: str, entry: str | None, separate: bool
) -> tuple[_Target, tuple[str, ...]]:
    """Return what is asked for, and one judge a group of tests; rows come again with every answer."""
    tree = parsed("\n".join([setup, *tests]))
    numpy_for(tree)
    target = _found(tree, prompt, reference) if entry is None else _named(entry, tree)
    if target.defined in _defined(parsed("\n".join(tests))):
        raise NoTests(f"the tests define {target.defined} themselves")
    # Written for the program's own scope, where these are often imported.
    helpers = "".join(f"import {name}\n" for name in unimported(tree)) + preamble(prompt, target.defined)
    lacking = set(unknown(tree)) - {target.defined} - made(parsed(helpers))
    if lacking and reference:
        helpers = f"{helpers}\n{preamble(reference, target.defined)}"
        lacking -= made(parsed(helpers))
    if lacking:
        raise NoTests(f"the tests use {', '.join(sorted(lacking))}, which the row does not define")
    if target.method and _methods(tree, target.defined) - {target.method}:
        raise NoTests(f"the tests use more of {target.defined} than {target.method}")
    head = "\n".join([helpers, setup])
    whole = parsed("\n".join([head, *tests]))
    verdicts = {name for name, call in _collected(parsed("\n".join(tests))) if call}
    seen = follow(whole, [target.defined], verdicts)
    groups = (_groups(head, tests, seen) if separate else None) or ["\n".join(tests)]
    if not any(_tests(parsed(group), seen) for group in groups):
        raise NoTests(f"the tests assert nothing about {target.entry}")
    mute = _QUIET if "unittest" in "".join(tests) else ""
    before = f"{numpy_for(whole)}{mute}{head}\n{target.bound()}"
    return target, tuple(f"{before}{group}\n{_run(parsed(group))}" for group in groups)


def _groups(head: str, tests: Sequence[str], seen: Followed) -> list[str] | None:
    """Return one text a test, with the statements in front of it that test nothing; None where tests need each other.

    What stands behind the last test belongs to it.
    """
    groups: list[str] = []
    before = rest = ""
    for test in tests:
        try:
            asserted = _tests(parsed(test), seen)
        except NoTests:
            return None
        if asserted:
            groups.append(f"{before}{test}")
            rest = ""
        else:
            before, rest = f"{before}{test}\n", f"{rest}\n{test}"
    if groups:
        groups[-1] += rest
    known = set(unknown(parsed("\n".join([head, *tests]))))
    return groups if all(set(unknown(parsed(f"{head}\n{group}"))) <= known for group in groups) else None


def _tests(tree: ast.Module, seen: Followed) -> bool:
    """Return whether running a text and what is collected in it asserts something about the program."""
    return checks(tree.body, seen) or any(name in seen.checking for name, _ in _collected(tree))


def _collected(tree: ast.Module) -> list[tuple[str, str]]:
    """Return names of functions that nothing in a text calls and a test runner would, and how to call them.

    What `unittest` calls has no text of its own.

    Raises:
        NoTests: One cannot be called so.
    """
    used = {
        node.func.id
        for statement in tree.body
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    found: list[tuple[str, str]] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found += _methods_of(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and re.match(r"check$|test", node.name):
            found += [] if node.name in used else [(node.name, _call(node))]
    return found


def _methods_of(node: ast.ClassDef) -> list[tuple[str, str]]:
    methods = [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
    names = [part.name for part in methods if part.name.startswith("test")]
    if any("TestCase" in ast.unparse(base) for base in node.bases):
        return [(name, "") for name in names]
    if not node.name.startswith("Test") or not names:
        return []
    if node.bases or any("setup" in part.name.lower() or not _runs(part) for part in methods):
        raise NoTests(f"{node.name} needs a test runner")
    return [(name, _verdict(f"{node.name}().{name}()")) for name in names]


def _call(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    count = len(node.args.posonlyargs) + len(node.args.args) - len(node.args.defaults)
    needed = [part.arg for part in [*node.args.posonlyargs, *node.args.args]][:count]
    alone = node.name == "check" or needed == ["candidate"] or not needed
    if not _runs(node) or len(needed) > 1 or not alone or node.args.kwonlyargs:
        raise NoTests(f"{node.name} cannot be called with the function alone")
    return _verdict(f"{node.name}({'candidate' if needed else ''})")


def _runs(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether calling this runs it."""
    later = (ast.Yield, ast.YieldFrom)
    return isinstance(node, ast.FunctionDef) and not any(isinstance(part, later) for part in ast.walk(node))


def _verdict(call: str) -> str:
    """Return the call with what it must return: test functions often return nothing of importance."""
    fine = "in (None, True)" if call.startswith("check(") else "is not False"
    return f"assert {call} {fine}, {call.partition('(')[0]!r}\n"


def _run(tree: ast.Module) -> str:
    """Return what calls everything that is collected."""
    calls = [call for _, call in _collected(tree)]
    return "".join(calls) + (_CASES if "" in calls else "")


def _named(entry: str, tree: ast.Module) -> _Target:
    """Return what an entry point means: a function, or with `Class().` in front, or by the tests, a method."""
    name = _ENTRY.fullmatch(entry.strip())
    if name is None:
        raise NoTests(f"entry_point is no name: {entry}")
    if name[1]:
        return _Target(defined=name[1], method=name[2])
    lacking = unknown(tree)
    in_class = "Solution" in lacking and (name[2] == "Solution" or name[2] not in lacking)
    return _solution(tree) if in_class else _Target(defined=name[2])


def _found(tree: ast.Module, prompt: str, reference: str) -> _Target:
    """Return the one function that tests can mean; where several could be, the prompt's last or the reference's own."""
    names = called(tree)
    if len(names) > 1:
        asked = [name for name in _functions(prompt)[-1:] if name in names]
        names = asked or [name for name in _functions(reference) if name in names] or names
    if not names and reference:
        # A function may have the name of a built-in one.
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        names = [name for name in _functions(reference) if any(getattr(call, "id", "") == name for call in calls)]
    if not names or any(isinstance(node, ast.Name) and node.id == "candidate" for node in ast.walk(tree)):
        raise NoTests("the tests call no function by its name, and entry_point is missing")
    if len(names) > 1:
        raise NoTests(f"the tests call {', '.join(names)}, and no entry_point says which is meant")
    return _solution(tree) if names == ["Solution"] else _Target(defined=names[0])


def _solution(tree: ast.Module) -> _Target:
    methods = sorted(_methods(tree, "Solution"))
    if len(methods) != 1:
        raise NoTests(f"the tests use {len(methods)} methods of Solution")
    return _Target(defined="Solution", method=methods[0])


def _defined(tree: ast.Module) -> set[str]:
    """Return the names that the statements of a text give a meaning to, outside functions."""
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    return found.union(
        *(made(node) for node in tree.body if isinstance(node, ast.Assign | ast.Import | ast.ImportFrom))
    )


def _functions(source: str) -> list[str]:
    return re.findall(r"^(?:async\s+)?def\s+(\w+)", source, re.MULTILINE)


def _methods(tree: ast.Module, name: str) -> set[str]:
    """Return what tests use of objects of a class, made in place or held by a name.

    Raises:
        NoTests: They make one with arguments: it would have a state, and every call gets a fresh object.
    """
    if any(_makes(node, name) and (node.args or node.keywords) for node in ast.walk(tree)):
        raise NoTests(f"the tests make a {name} with arguments")
    objects = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and _makes(node.value, name)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and (_makes(node.value, name) or (isinstance(node.value, ast.Name) and node.value.id in objects))
    }


def _makes(node: ast.AST, name: str) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def _statement(test: object) -> bool:
    return isinstance(test, str) and bool(test.strip())
