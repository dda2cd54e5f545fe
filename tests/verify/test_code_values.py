"""Values that a model writes: literals, what an expression may hold, and texts that hurt a parser."""

from __future__ import annotations

import pytest

from forkpoint.verify.code_values import argument_list, literal, spellings, value_expression

NASTY = [
    "[" * 10**4,
    "(" * 51 + ")" * 51,
    "-" * 9999 + "1",
    "not " * 2000 + "1",
    "+ - ~ ( " * 30 + "1",
    "9" * 9999,
    "1" + "+1" * 4900,
    "1" + "j+1" * 3000,
    "{" * 49 + "}" * 49,
    "[1," * 49 + "]" * 49,
    "'" + "\\x00" * 2000 + "'",
    "\0",
    "'\ud800'",
    "b'é'",
    "f'{1}'",
    "1e9999999",
    "x" * 20_000,
    "",
    " ",
    "lambda: 1",
    "__import__('os').system('id')",
    "[x for x in y]",
    "(yield)",
    "{**{}}",
    "[*[1]]",
    "{[]: 1}",
    "{1: {2}, {3}: 4}",
    "'a' 'b'",
    "1 if 1 else 2",
    "...",
]


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_nothing_raises(text):
    assert literal(text) is None or len(literal(text)) == 1
    assert value_expression(text) in (True, False)
    assert argument_list(text) in (True, False)
    assert all(isinstance(one, str) for one in spellings(text))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[(4, 1), 'a', None, True, -1.5, b'x', {1: {2}}]", [(4, 1), "a", None, True, -1.5, b"x", {1: {2}}]),
        (" 3 ", 3), ("1 + 2j", 1 + 2j), ("set()", set()), ("()", ()), ("'\\n'", "\n"), ("1_000", 1000),
    ],
)  # fmt: skip
def test_literals(text, value):
    assert literal(text) == (value,)
    assert type(literal(text)[0]) is type(value)


@pytest.mark.parametrize("text", ["f(1)", "x", "[x]", "1 +", "9" * 5000, "2 ** 3", "None()", "'a' * 3"])
def test_what_is_no_literal(text):
    assert literal(text) is None


def test_depth_and_length_have_a_limit():
    assert literal("[" * 50 + "]" * 50) is not None
    assert literal("[" * 51 + "]" * 51) is None
    assert literal("'" + "x" * 9998 + "'") is not None
    assert literal("'" + "x" * 9999 + "'") is None


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("'ab' * 3", True), ("Counter({'a': 1})", True), ("set([1]) ", True), ("frozenset({1})", True),
        ("defaultdict(int, {1: 2})", True), ("[set(), -1]", True), ("OrderedDict([('a', 1)])", True),
        ("f([1])", False), ("sorted([2, 1])", False), ("'a'.upper()", False), ("x", False), ("lambda: 1", False),
        ("[1, 2][0]", False), ("(lambda x: x)(1)", False), ("[i for i in (1,)]", False), ("eval('1')", False),
        ("2**30", False), ("2 * 3", False), ("'a' * (2 * 3)", False), ("[1] * len('a')", False),
        ("1 + 1", False), ("Counter('aab')", False), ("int('ff', 16)", False),
        ("'%d' % 5", False), ("str(5)", False), ("set('aab')", False), ("[1] + [2]", True), ("(1,) * 3", True),
        ("'a' + 'b' * 2", True), ("[1 + 1]", False), ("[2 * [1]]", True), ("range(0, 3)", True), ("float('nan')", True),
        ("float('1')", False), ("[float('-inf'), set()]", True), ("Counter(a=1)", True), ("deque([1], maxlen=3)", True),
        ("Counter([1, 1])", False), ("defaultdict(list, {1: [2]})", True), ("defaultdict(f, {})", False),
        ("bytearray(b'a')", True), ("[1+2j, set()]", True), ("[-1, set()]", True), ("[~1, set()]", False),
        ("len([1])", False), ("list(range(3))", False), ("f'{1}'", False), ("{1: {2: set()}}", True),
        ("set.__class__", False), ("1 if 1 else 2", False), ("(x := 1)", False), ("1\nf(2)", False),
    ],
)  # fmt: skip
def test_what_an_expression_of_a_value_may_hold(text, fine):
    assert value_expression(text) is fine


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("", True), ("1, 'a'", True), ("*[1]", False), ("x=1, y=[2]", True), ("**{'x': 1}", True),
        ("lambda x: x < 2", True), ("lambda x: x.reverse()", True), ("'a-b'.split('-'), 'n'", True),
        ("range(100, 120)", True), ("dict(a=1)", True), ("1) or f(2", False), ("1))", False), ("1) # ", False),
        ("names[:]", False), ("f(1)", False), ("exec('x')", False), ("'{0.x}'.format(1)", False),
        ("'a'.__class__", False), ("(x := 1)", False), ("[].append.__self__", False), ("lambda: y", False),
        ("1, # note", True), ("(lambda: 1)()", False),
    ],
)  # fmt: skip
def test_what_arguments_may_hold(text, fine):
    assert argument_list(text) is fine


def test_names_of_the_program_may_be_arguments():
    assert argument_list("names[:], names[0], names['a'][-1], names, 3", ("names",))
    assert argument_list("[Node(1)]", (), ("Node",))
    for text in (
        "names.append(1)", "names.update({2: 3}) or 2", "list.append(names, 5)", "[names][0].clear()", "names()",
        "(names or 1).clear()", "[1].sort(key=lambda x: names.clear())", "names[0].clear()", "[names.pop()]",
        "names[x]", "Node.shared.append(1)", "Node().shared.clear()",
    ):  # fmt: skip
        assert not argument_list(text, ("names",), ("Node",)), text
    assert not argument_list("other[:], 3", ("names",))


@pytest.mark.parametrize(
    "answer", [r"\{1: 2\}", "`{1: 2}`", "${1: 2}$", r"\text{{1: 2}}", r"\texttt{\{1: 2\}}", "{1: 2}", r"\{1:2\}"]
)
def test_marks_around_a_value_are_taken_away(answer):
    assert ({1: 2},) in map(literal, spellings(answer))
