r"""Values written by a model: literals compared in this process, and the few expressions that a sandbox may evaluate.

An answer to "what does f return?" is a value. Literals are read with `ast.literal_eval` after their length and depth
are bounded, so nothing is executed. Beyond them an expression may put values together (`set()`, `'ab' * 3`,
`Counter({'a': 1})`); it may not call what it was asked about, or any function that could compute the answer.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection, Sequence
from typing import Any

LONGEST = 10_000
"""Characters of a value that is read."""
DEEPEST = 50
"""Brackets within brackets of such a value, and signs in a row."""
MADE = ("set", "frozenset", "dict", "list", "tuple", "bytearray", "OrderedDict", "deque")
"""What an expression may make of literal containers."""
CALLED = (*MADE, "float", "complex", "bytes", "range", "Counter", "defaultdict")
"""What arguments may call."""
IMPORTS = "from collections import Counter, OrderedDict, defaultdict, deque\n"
"""What a program needs before such an expression."""
_BRACKETS = re.compile(r"[(\[{]|[)\]}]")
_SIGNS = re.compile(rf"(?:[-+~][\s(]*){{{DEEPEST},}}|(?:\bnot\b[\s(]*){{{DEEPEST},}}")
_TEXT = re.compile(r"\\(?:text|texttt|mathtt|mathrm|verb)\s*\{(.*)\}", re.DOTALL)
_ESCAPE = re.compile(r"\\([{}_%$#&])")
_ARGUMENTS = (
    ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.BinOp, ast.UnaryOp, ast.Call, ast.Name, ast.keyword,
    ast.expr_context, ast.operator, ast.unaryop, ast.Attribute, ast.Subscript, ast.Slice, ast.Compare, ast.cmpop,
    ast.BoolOp, ast.boolop, ast.IfExp, ast.Lambda, ast.arguments, ast.arg,
)  # fmt: skip
_KINDS = ("int", "str", "list", "dict", "set", "float", "bool", "tuple")
"""What a `defaultdict` may make."""
_UNWRITTEN = re.compile(r"[+-]?(?:inf(?:inity)?|nan)", re.IGNORECASE)
"""Floats that have no literal."""


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
    """Return whether a text puts literal values together and computes nothing from them.

    Containers made of literal ones, sequences that are joined with `+` or repeated with `*`, ranges, infinities.

    >>> value_expression("set()"), value_expression("'ab' * 3"), value_expression("2 * 3"), value_expression("f(1)")
    (True, True, False, False)
    """
    tree = _parsed(text)
    return tree is not None and _value(tree)


def _value(node: ast.expr | None) -> bool:
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return all(map(_value, node.elts))
    if isinstance(node, ast.Dict):
        return all(map(_value, [*node.keys, *node.values]))
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and _call(node.func.id, node.args, node.keywords)
    return isinstance(node, ast.Constant) or _number(node) or _sequence(node)


def _number(node: ast.expr | None) -> bool:
    """Return whether this is a number as it is written, its sign and imaginary part included."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        imaginary = isinstance(node.right, ast.Constant) and isinstance(node.right.value, complex)
        return imaginary and _number(node.left)
    inner = node.operand if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd) else node
    return isinstance(inner, ast.Constant) and type(inner.value) in (int, float, complex)


def _sequence(node: ast.expr | None) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _sequence(node.left) and _sequence(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        one, other = (node.left, node.right) if _sequence(node.left) else (node.right, node.left)
        return _sequence(one) and isinstance(other, ast.Constant) and type(other.value) is int
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str | bytes)
    return isinstance(node, ast.List | ast.Tuple) and _value(node)


def _call(name: str, given: Sequence[ast.expr], options: Sequence[ast.keyword]) -> bool:
    """Return whether a call is how a value is written that has no literal."""
    written = [option.value for option in options]
    if name == "float":
        text = given[0].value if len(given) == 1 and isinstance(given[0], ast.Constant) else None
        return isinstance(text, str) and _UNWRITTEN.fullmatch(text.strip()) is not None and not options
    if name == "range":
        return bool(given) and all(map(_number, given)) and not options
    if name == "Counter":
        mapped = all(isinstance(part, ast.Dict) and _value(part) for part in given)
        return len(given) < 2 and mapped and all(map(_value, written))
    if name == "defaultdict":
        kind = isinstance(given[0], ast.Name) and given[0].id in _KINDS if given else True
        return kind and len(given) < 3 and all(isinstance(part, ast.Dict) and _value(part) for part in given[1:])
    made = (ast.List, ast.Tuple, ast.Set, ast.Dict)
    literal = all(isinstance(part, made) or (name == "bytearray" and _sequence(part)) for part in given)
    return name in MADE and len(given) < 2 and literal and all(map(_value, [*given, *written]))


def argument_list(text: str, names: Collection[str] = (), classes: Collection[str] = ()) -> bool:
    """Return whether a text is what may stand between the brackets of a call: values without effects.

    More is allowed than in a value: methods of values, subscripts, comparisons and small lambdas, for such arguments
    occur. What the program defines may only be read: a method of it, or a function, could change what is asked about.

    Args:
        text: The arguments.
        names: Values that the program defines; they may be arguments, whole or in part.
        classes: Classes that it defines; arguments may be objects of them.

    >>> argument_list("[1], key=2"), argument_list("'a b'.split(), lambda x: x < 2"), argument_list("1) or f(2")
    (True, True, False)
    >>> argument_list("table, table[1]", ["table"]), argument_list("table.clear()", ["table"])
    (True, False)
    """
    call = _parsed(f"f({text}\n)")
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        return False
    parts = [*call.args, *(keyword.value for keyword in call.keywords)]
    return all(_read(part, names) or _made_of(part, classes) for part in parts)


def _read(node: ast.expr, names: Collection[str]) -> bool:
    """Return whether this is a value of the program, or a literal part of one."""
    if isinstance(node, ast.Subscript):
        index = [node.slice.lower, node.slice.upper, node.slice.step] if isinstance(node.slice, ast.Slice) else []
        bounds = [bound for bound in index if bound is not None] if index else [node.slice]
        return _read(node.value, names) and all(isinstance(one, ast.Constant) or _number(one) for one in bounds)
    return isinstance(node, ast.Name) and node.id in names


def _made_of(tree: ast.expr, classes: Collection[str]) -> bool:
    """Return whether nothing here can have an effect outside: every name is a type or an argument of a lambda."""
    nodes = list(ast.walk(tree))
    known = {*CALLED, *classes, *(node.arg for node in nodes if isinstance(node, ast.arg))}
    for node in nodes:
        if not isinstance(node, _ARGUMENTS) or (isinstance(node, ast.Name) and node.id not in known):
            return False
        # Formats reach attributes by name, and a class holds what its objects share.
        if isinstance(node, ast.Attribute) and (node.attr.startswith(("_", "format")) or _among(node.value, classes)):
            return False
        if isinstance(node, ast.Call) and not isinstance(node.func, ast.Name | ast.Attribute):
            return False
    return True


def _among(node: ast.expr, names: Collection[str]) -> bool:
    return any(isinstance(part, ast.Name) and part.id in names for part in ast.walk(node))


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
