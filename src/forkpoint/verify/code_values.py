r"""Values written by a model: literals compared in this process, and the few expressions that a sandbox may evaluate.

An answer to "what does f return?" is a value. Literals are read with `ast.literal_eval` after their length and depth
are bounded, so nothing is executed. Beyond them an expression may put values together (`set()`, `'ab' * 3`,
`Counter({'a': 1})`); it may not call what it was asked about, or any function that could compute the answer.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection
from typing import Any

LONGEST = 10_000
"""Characters of a value that is read."""
DEEPEST = 50
"""Brackets within brackets of such a value, and signs in a row."""
MADE = (
    "set", "frozenset", "dict", "list", "tuple", "float", "complex", "bytes", "bytearray", "range", "Counter",
    "OrderedDict", "deque", "defaultdict",
)  # fmt: skip
"""What an expression may call: types that hold values."""
IMPORTS = "from collections import Counter, OrderedDict, defaultdict, deque\n"
"""What a program needs before such an expression."""
_BRACKETS = re.compile(r"[(\[{]|[)\]}]")
_SIGNS = re.compile(rf"(?:[-+~][\s(]*){{{DEEPEST},}}|(?:\bnot\b[\s(]*){{{DEEPEST},}}")
_TEXT = re.compile(r"\\(?:text|texttt|mathtt|mathrm|verb)\s*\{(.*)\}", re.DOTALL)
_ESCAPE = re.compile(r"\\([{}_%$#&])")
_VALUES = (
    ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.BinOp, ast.UnaryOp, ast.Call, ast.Name, ast.keyword,
    ast.expr_context, ast.operator, ast.unaryop,
)  # fmt: skip
_ARGUMENTS = (
    *_VALUES, ast.Attribute, ast.Subscript, ast.Slice, ast.Compare, ast.cmpop, ast.BoolOp, ast.boolop, ast.IfExp,
    ast.Lambda, ast.arguments, ast.arg,
)  # fmt: skip


def literal(text: str) -> tuple[Any] | None:
    """Return the value of a Python literal in a tuple of one, or None where the text is no literal or too large.

    >>> literal("{'a': [1, (2,)]}"), literal("f(1)"), literal("[" * 51 + "]" * 51)
    (({'a': [1, (2,)]},), None, None)
    """
    if not _bounded(text):
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            return (ast.literal_eval(text.strip()),)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, OverflowError):
        return None


def spellings(answer: str) -> list[str]:
    r"""Return an answer as it stands and without the marks that a box or Markdown puts around it.

    >>> spellings(r"\{1: `2`\}"), spellings("`[1]`")
    (['\\{1: `2`\\}', '{1: `2`}'], ['`[1]`', '[1]'])
    """
    inner = answer.strip()
    while (found := _TEXT.fullmatch(inner)) is not None:
        inner = found[1].strip()
    inner = inner.strip("$").strip() if inner[:1] == "$" == inner[-1:] and len(inner) > 2 else inner
    inner = inner[1:-1].strip() if inner[:1] == "`" == inner[-1:] and len(inner) > 2 else inner
    return list(dict.fromkeys([answer.strip(), inner, _ESCAPE.sub(r"\1", inner)]))


def value_expression(text: str) -> bool:
    """Return whether a text puts values together and computes nothing that could be a program.

    >>> value_expression("set()"), value_expression("Counter('aab')"), value_expression("f(1)"), value_expression("x")
    (True, True, False, False)
    """
    tree = _parsed(text)
    return tree is not None and _made_of(tree, _VALUES, {*MADE, "int", "str"})


def argument_list(text: str, names: tuple[str, ...] = ()) -> bool:
    """Return whether a text is what may stand between the brackets of a call: values without effects.

    More is allowed than in a value: methods of values, subscripts, comparisons and small lambdas, for such arguments
    occur. Names are those that the program defines beside the function.

    >>> argument_list("[1], key=2"), argument_list("'a b'.split(), lambda x: x < 2"), argument_list("1) or f(2")
    (True, True, False)
    """
    call = _parsed(f"f({text}\n)")
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        return False
    parts = [*call.args, *(keyword.value for keyword in call.keywords)]
    return all(_made_of(part, _ARGUMENTS, {*MADE, *names}) for part in parts)


def _made_of(tree: ast.expr, kinds: tuple[type[ast.AST], ...], names: Collection[str]) -> bool:
    """Return whether every node is of one of these kinds and every name among these or an argument of a lambda."""
    nodes = list(ast.walk(tree))
    known = {*names, *(node.arg for node in nodes if isinstance(node, ast.arg))}
    for node in nodes:
        if not isinstance(node, kinds) or (isinstance(node, ast.Name) and node.id not in known):
            return False
        # Formats reach attributes by name.
        if isinstance(node, ast.Attribute) and node.attr.startswith(("_", "format")):
            return False
        if isinstance(node, ast.Call) and not isinstance(node.func, ast.Name | ast.Attribute):
            return False
    return True


def _bounded(text: str) -> bool:
    if len(text) > LONGEST or "\0" in text or _SIGNS.search(text):
        return False
    depth = deepest = 0
    for bracket in _BRACKETS.findall(text):
        depth += 1 if bracket in "([{" else -1
        deepest = max(deepest, depth)
    return deepest <= DEEPEST


def _parsed(text: str) -> ast.expr | None:
    if not _bounded(text):
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.parse(text.strip(), mode="eval").body
    except (ValueError, SyntaxError, MemoryError, RecursionError, OverflowError):
        return None
