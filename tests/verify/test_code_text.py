"""From completions to programs: fences, continuations, preambles, what is not run at all."""

from __future__ import annotations

import pytest

from forkpoint.verify.code_text import code_of, cut, defines, fenced, preamble, program_of, unusable

PROMPT = '''from typing import List
ONE = 1

def helper(x):
    return x + ONE

def f(xs: List[int]) -> int:
    """Sum of helpers."""
'''
BODY = "    return sum(helper(x) for x in xs)\n"
WHOLE = "def f(xs: List[int]) -> int:\n" + BODY


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a\n```python\nx\n```\nb\n```python\ny\n```\nc", "y\n"),
        ("```python\nx\n```\n```\noutput\n```", "x\n"),
        ("```\nx\n```\n```text\ny\n```", "y\n"),
        ("```Python3\nx\n```", "x\n"),
        ("```python title=a\nx\n```", "x\n"),
        ("  ```py\n    x\n  ```", "  x\n"),
        ("1. So:\n\n   ```python\n   def f(x):\n       return x\n\n   ```\n", "def f(x):\n    return x\n\n"),
        ("\t```py\n\tx\n  y\n\t```", "x\n  y\n"),
        ("````python\na = '''\n```\n'''\n````", "a = '''\n```\n'''\n"),
        ("~~~python\n```\n~~~", "```\n"),
        ("```python\na\n```text\nb\n```\nc", "a\n```text\nb\n"),
        ("cut off\n```python\nx = 1\ny =", "x = 1\ny ="),
        ("```python\r\nx\r\n```\r\n", "x\r\n"),
        ("    return 1", "    return 1"),
        ("inline `x` and ```y```", "inline `x` and ```y```"),
        ("", ""),
    ],
)
def test_which_block_counts(text, code):
    assert code_of(text) == code


USAGE = "```python\nprint(f(1))\n```"


@pytest.mark.parametrize(
    "text",
    [
        f"```python\n{WHOLE}```\nFor example:\n{USAGE}",
        f"{USAGE}\nis answered by\n```python\n{WHOLE}```",
        f"```\n{WHOLE}```\nFor example:\n{USAGE}",
        f"```python\ndef f(x):\n    pass\n```\nBetter:\n```python\n{WHOLE}```\n{USAGE}",
        f"```python\n{WHOLE}```\n```cpp\nclass f = 0\n```\n",
    ],
)
def test_a_block_that_defines_what_is_asked_for_goes_before_others(text):
    assert program_of(text, entry="f") == WHOLE


def test_a_class_may_be_defined_in_place_of_the_function():
    text = f"```python\nclass Solution:\n    def f(self): pass\n```\n{USAGE}"
    assert program_of(text, entry="f", also="Solution").startswith("class Solution")
    assert program_of(text, prompt="pass\n", entry="f") == "pass\nprint(f(1))\n"


def test_a_block_keeps_its_language_and_indentation():
    assert fenced("```c++\n  int x;\n```\n") == [("c++", "  int x;\n")]
    assert fenced("no fence") == []


@pytest.mark.parametrize(
    "text",
    [
        BODY,
        f"```python\n{BODY}```",
        WHOLE,
        f"Here it is.\n```python\n{WHOLE}```\nIt adds up.",
        f"```python\n{PROMPT}{BODY}```",
        "f = lambda xs: sum(helper(x) for x in xs)",
    ],
)
def test_every_way_of_answering_gives_a_program_that_runs(text):
    scope = {}
    exec(program_of(text, prompt=PROMPT, entry="f"), scope)
    assert scope["f"]([1, 2]) == 5


def test_the_preamble_is_everything_but_the_function():
    scope = {}
    exec(preamble(PROMPT, "f"), scope)
    assert scope["helper"](1) == 2
    assert "f" not in scope
    assert preamble("no python at all", "f") == ""
    assert preamble("def f():\n", "f") == ""
    assert preamble("def f():\n  '''Two blanks.'''\n", "f") == ""


def test_imports_from_the_future_come_first():
    code = "from __future__ import annotations\nimport math\ndef f(xs: Unknown):\n    return helper(math.prod(xs))"
    scope = {}
    exec(program_of(f"```python\n{code}\n```", prompt=PROMPT, entry="f"), scope)
    assert scope["f"]([2, 3]) == 7


def test_a_continuation_ends_at_a_stop_sequence_only_if_asked():
    text = BODY + "\n\nprint(f([1]))\nthis is prose"
    assert program_of(text, prompt=PROMPT, entry="f", stops=True) == PROMPT + BODY + "\n\n"
    assert program_of(text, prompt=PROMPT, entry="f") == PROMPT + text
    assert cut("    if x:\n        print(1)\n    # note\n") == "    if x:\n        print(1)\n    # note\n"
    for opener in ("class A:", "def g():", "# test", "if 1:", "print(1)"):
        assert cut(f"    return 1\n{opener}\n") == "    return 1\n"
    assert cut("    x\nprinter = 1\n") == "    x\nprinter = 1\n"


@pytest.mark.parametrize(
    ("code", "is_there"),
    [
        ("def f():", True), ("async def f():", True), ("class f:", True), ("f=1", True), ("x\ndef f (a):", True),
        ("def ff():", False), ("  def f():", False), ("f == 1", False), ("f(1)", False), ("# def f", False),
    ],
)  # fmt: skip
def test_what_is_defined(code, is_there):
    assert defines(code, "f") is is_there


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("", "no program"), (" \n\t", "no program"), ("x\0", "null character"), ("'\udc80'", "half a character"),
        ("x" * 100_001, "longer than 100,000 characters"), ("x" * 100_000, ""),
    ],
)  # fmt: skip
def test_what_cannot_be_run(program, why):
    assert unusable(program) == why


@pytest.mark.parametrize("text", ["```\n" * 10**6, "`" * 10**7, "a\n" * 10**6, "```python\n" + "x" * 10**7])
def test_long_texts_are_read_in_one_pass(text):
    # Quadratic work on these would take hours, and the limit of the test run ends it.
    assert len(code_of(text)) <= len(text)
