"""What a test text says before it runs: what it imports, calls and lacks, and whether it tests a program at all.

A judge passes by running to its end, so a text without an assertion about what the program returned would let every
program pass. Names are followed through a text without regard to order or scope, which takes a few texts for tests
that are none; a judge that has not called the program gives no verdict either.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module

from forkpoint.verify import code_oracle
from forkpoint.verify.code_case import NoTests

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
_HAS = {"allclose", "ndarray", "float32", "float64", "testing", "testing.assert_allclose"}
_PROVIDED = {*dir(builtins), "candidate", "__name__", "__file__", "__doc__"}
_STARRED = ("typing", "collections", "heapq", "bisect", "itertools", "functools", "math", "unittest")
"""Modules of which tests may import everything."""
_COMMON = ("math", "sys", "re", "collections", "itertools", "functools", "random", "string", "heapq", "copy")
_CHECKING = re.compile(r"assert|fail")
_CATCHES = {"AssertionError", "Exception", "BaseException"}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_COMPOUND = (ast.If, ast.Try, ast.For, ast.While, ast.With)


def parsed(source: str) -> ast.Module:
    """Return the tree of a test text.

    Raises:
        NoTests: It is no Python.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NoTests(f"the tests are no Python ({type(error).__name__})") from None


def numpy_for(tree: ast.Module) -> str:
    """Return what must stand before a text that imports numpy; nothing for others.

    Raises:
        NoTests: It imports what a judge does not have.
    """
    modules, alias, used = set[str](), set[str](), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {name.name for name in node.names}
            alias |= {name.asname or name.name for name in node.names if name.name == "numpy"}
        elif isinstance(node, ast.ImportFrom):
            modules.add("." * node.level + (node.module or ""))
            used |= {name.name for name in node.names if node.module == "numpy"}
    for node in ast.walk(tree):
        if alias and isinstance(node, ast.Attribute):
            name = ast.unparse(node) if isinstance(node.value, ast.Name | ast.Attribute) else ""
            used |= {name.partition(".")[2]} if name.partition(".")[0] in alias else set()
    lacking = sorted({name.partition(".")[0] or "." for name in modules} - sys.stdlib_module_names - {"numpy"})
    lacking = lacking or sorted(name for name in modules if name.startswith("numpy."))
    lacking = lacking or sorted(f"numpy.{name}" for name in used - _HAS)
    if lacking:
        raise NoTests(f"the tests need {', '.join(lacking)}, and only the standard library is there")
    return f"{inspect.getsource(code_oracle)}{_NUMPY}" if "numpy" in modules else ""


def made(tree: ast.AST) -> set[str]:
    """Return the names that a text defines, assigns or imports anywhere.

    Raises:
        NoTests: It imports everything of a module outside a short list.
    """
    found = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)):
            found |= {node.name} if node.name else set()
        elif isinstance(node, ast.MatchMapping) and node.rest:
            found.add(node.rest)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            if node.module not in _STARRED:
                raise NoTests(f"the tests import everything of {node.module}")
            found |= set(dir(import_module(node.module)))
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
    return found


def unknown(tree: ast.AST) -> list[str]:
    r"""Return the names that a text uses and neither makes nor has from Python, in order.

    >>> unknown(parsed("import math\nassert math.sqrt(f(4)) == len(g([ONE]))"))
    ['f', 'g', 'ONE']
    """
    known = made(tree) | _PROVIDED
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id not in known]
    names.sort(key=lambda node: (node.lineno, node.col_offset))
    return list(dict.fromkeys(node.id for node in names))


def called(tree: ast.AST) -> list[str]:
    """Return those of the unknown names that a text calls.

    >>> called(parsed("assert f(ONE) == list(map(g, [1]))"))
    ['f']
    """
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    return [name for name in unknown(tree) if name in calls]


def unimported(tree: ast.AST) -> list[str]:
    """Return the common modules that a text uses without importing them.

    >>> unimported(parsed("assert f(re) == math.pi + y.z"))
    ['math']
    """
    bases = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    bare = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in bases}
    return [name for name in unknown(tree) if name in _COMMON and name not in bare]


@dataclass(frozen=True, kw_only=True)
class Followed:
    """What names in a text have to do with the program."""

    returned: frozenset[str]
    """May hold what the program returned, or call it."""
    checking: frozenset[str]
    """Functions that check something of it."""
    own: frozenset[str]
    """Functions of the text, whatever they do."""


def follow(tree: ast.Module, sources: Iterable[str], verdicts: Collection[str] = ()) -> Followed:
    """Return which names of a text carry what the program returned, and which functions check it.

    Args:
        tree: All that runs in the judge.
        sources: Names that call the program.
        verdicts: Functions of the text that are called with the program's and refuse by returning False.
    """
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)}
    flows = list(_flows(tree, functions))
    given = [part.arg for name in verdicts for part in ast.walk(functions[name].args) if isinstance(part, ast.arg)]
    returned = {"candidate", *sources, *given}
    # Each round adds a name or is the last.
    while grown := {name for uses, names in flows if uses & returned for name in names} - returned:
        returned |= grown
    seen = Followed(returned=frozenset(returned), checking=frozenset(), own=frozenset(functions))
    while more := {
        name
        for name, node in functions.items()
        if name not in seen.checking and checks(node.body, seen, final=name in verdicts)
    }:
        seen = replace(seen, checking=seen.checking | more)
    return seen


def checks(nodes: Iterable[ast.AST], seen: Followed, *, near: bool = False, final: bool = False) -> bool:
    """Return whether running these nodes checks what the program returned.

    Args:
        nodes: Statements or expressions; what functions and classes among them hold runs elsewhere.
        seen: What names stand for.
        near: A statement around them depends on the program.
        final: What is returned is a verdict.
    """
    return any(_checks(node, seen, near, final) for node in nodes)


def _checks(node: ast.AST, seen: Followed, near: bool, final: bool) -> bool:
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Lambda)):
        return False
    if isinstance(node, ast.Assert):
        constant = isinstance(node.test, ast.Constant)
        return near and not getattr(node.test, "value", True) if constant else bool(_names(node.test) & seen.returned)
    if isinstance(node, ast.Raise):
        return near
    if isinstance(node, ast.Return) and final and isinstance(node.value, ast.Constant):
        return near and node.value.value is False
    if isinstance(node, ast.Return) and final and node.value is not None and _names(node.value) & seen.returned:
        return True
    if isinstance(node, ast.Name):
        return node.id in seen.checking
    if isinstance(node, ast.Call):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        says = name not in seen.own and _CHECKING.match(name)
        if name in seen.checking or (says and (near or _names(node) & seen.returned)):
            return True
    near = near or (isinstance(node, _COMPOUND) and bool(_names(node) & seen.returned))
    parts: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.Try) and any(_swallows(handler, final) for handler in node.handlers):
        parts = [*node.handlers, *node.orelse, *node.finalbody]
    return checks(parts, seen, near=near, final=final)


def _swallows(handler: ast.ExceptHandler, final: bool) -> bool:
    """Return whether a failed assertion ends here, without a word to who called."""
    caught = {part.id for part in ast.walk(handler.type) if isinstance(part, ast.Name)} if handler.type else _CATCHES
    answers = (ast.Raise, ast.Assert, ast.Return) if final else (ast.Raise, ast.Assert)
    parts = [part for statement in handler.body for part in ast.walk(statement)]
    said = any(isinstance(part, answers) for part in parts) or any(
        _CHECKING.match(getattr(part.func, "attr", "")) for part in parts if isinstance(part, ast.Call)
    )
    return bool(caught & _CATCHES) and not said


def _flows(
    tree: ast.Module, functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef]
) -> Iterator[tuple[set[str], set[str]]]:
    """Yield names and those that may come to hold what they hold."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            yield _names(node.value), {name for target in node.targets for name in _names(target)}
        elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            yield _names(node.value), _names(node.target)
        elif isinstance(node, ast.For | ast.comprehension):
            yield _names(node.iter), _names(node.target)
        elif isinstance(node, ast.If | ast.While):
            stored = (part for part in ast.walk(node) if isinstance(part, ast.Name))
            yield _names(node.test), {part.id for part in stored if isinstance(part.ctx, ast.Store)}
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            yield _names(node.context_expr), _names(node.optional_vars)
        elif isinstance(node, _FUNCTIONS):
            yield set().union(*map(_names, node.body)), {node.name}
        elif isinstance(node, ast.Try):
            caught = {handler.name for handler in node.handlers if handler.name}
            yield set().union(*map(_names, node.body)), caught
        elif isinstance(node, ast.Call):
            given = set().union(*map(_names, [*node.args, *node.keywords]))
            if isinstance(node.func, ast.Name) and node.func.id in functions:
                yield given, {part.arg for part in ast.walk(functions[node.func.id].args) if isinstance(part, ast.arg)}
            elif isinstance(node.func, ast.Attribute):
                yield given, _names(node.func.value)


def _names(node: ast.AST) -> set[str]:
    """Return the names that stand somewhere below a node."""
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
