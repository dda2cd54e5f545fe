r"""From a completion to a program: the fenced block that counts, and what a prompt adds to it.

Harnesses ask in two ways. A base model continues the prompt, so the program is prompt + completion; a chat model
writes the whole function in a fenced block, so the program is the block behind the imports and helper functions that
the prompt defines. Which of the two it is shows in the code: whether it defines the function that is asked for.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection

LONGEST = 100_000
"""Characters of a program; a longer one is not run."""
_FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([\w+.#-]*)")
_PYTHON = ("python", "python3", "py", "py3")
_FUTURE = re.compile(r"^from __future__ import [\w, ]+\n", re.MULTILINE)
_STOP = re.compile(r"^(?:class|def|if|print)\b|^#", re.MULTILINE)


def fenced(text: str) -> list[tuple[str, str]]:
    r"""Return the fenced blocks of a text: language in lower case, and content, indented as beyond its fence.

    One pass over the lines. A block ends at a fence of its own kind that names no language; the last may be open, as
    in an answer that was cut off.

    >>> fenced("so\n```python\nx = 1\n```\n~~~\ny\n")
    [('python', 'x = 1\n'), ('', 'y\n')]
    """
    blocks: list[tuple[str, str]] = []
    margin, mark, language, lines = "", "", "", list[str]()
    for line in text.splitlines(keepends=True):
        fence = _FENCE.match(line)
        if fence is None:
            if mark:
                lines.append(_outdented(line, margin))
        elif not mark:
            margin, mark, language, lines = fence[1], fence[2], fence[3].lower(), []
        elif fence[2].startswith(mark) and not line[fence.end(2) :].strip():
            blocks.append((language, "".join(lines)))
            mark = ""
        else:
            lines.append(_outdented(line, margin))
    if mark:
        blocks.append((language, "".join(lines)))
    return blocks


def code_of(text: str, names: Collection[str] = ()) -> str:
    r"""Return the code of a completion: the last block marked as Python, else the last block, else all of the text.

    Blocks that define one of the names go before others, so a block that shows how to call the function is not taken
    for it.

    >>> code_of("a ```x``` b"), code_of("```py\nx\n```\n```\n1\n```")
    ('a ```x``` b', 'x\n')
    >>> code_of("```py\nf = len\n```\n```py\nprint(f([]))\n```", ["f"])
    'f = len\n'
    """
    blocks = fenced(text)
    python = [code for language, code in blocks if language in _PYTHON]
    unmarked = [code for language, code in blocks if not language]
    asked = [[code for code in some if any(defines(code, name) for name in names)] for some in (python, unmarked)]
    return (asked[0] or asked[1] or python or [code for _, code in blocks] or [text])[-1]


def defines(code: str, name: str) -> bool:
    r"""Return whether a line of the code that is not indented defines or assigns the name.

    >>> defines("def f(x):\n    return x", "f"), defines("    def f(): pass", "f"), defines("f = len", "f")
    (True, False, True)
    """
    return (
        re.search(rf"^(?:(?:async\s+)?def|class)\s+{re.escape(name)}\b|^{re.escape(name)}\s*=[^=]", code, re.M)
        is not None
    )


def cut(code: str) -> str:
    r"""Return a continuation up to the first line that opens something of its own.

    Such lines start with `class`, `def`, `#`, `if` or `print` and are not indented, the stop sequences of
    arXiv 2107.03374 sec. 3.2.

    >>> cut("    return 1\n\nprint(f())")
    '    return 1\n\n'
    """
    stop = _STOP.search(code, 1)
    return code if stop is None else code[: stop.start()]


def preamble(prompt: str, entry: str) -> str:
    r"""Return what a prompt defines besides the function it asks for: imports, constants, helper functions.

    Args:
        prompt: Python up to the body of the function, as benchmarks write it; trusted.
        entry: Name of that function.

    Returns:
        Python source; empty where the prompt is no Python.

    >>> preamble("import math\ndef g(x):\n    return -x\ndef f(x):\n    '''Twice.'''\n", "f")
    'import math\ndef g(x):\n    return -x'
    """
    for ending in ("", "\n    pass", "\n  pass", "\n\tpass"):
        try:
            with warnings.catch_warnings(action="ignore"):
                body = ast.parse(prompt + ending).body
        except (SyntaxError, ValueError):
            continue
        kept = [node for node in body if getattr(node, "name", None) != entry and not _is_text(node)]
        return "\n".join(ast.get_source_segment(prompt, node) or "" for node in kept)
    return ""


def program_of(
    text: str, *, prompt: str = "", entry: str | None = None, stops: bool = False, also: str | None = None
) -> str:
    r"""Return the program that a completion amounts to.

    Args:
        text: The completion; any text.
        prompt: What a continuation continues, as Python.
        entry: The function or class that is asked for; None where the program is whole.
        stops: End a continuation at the first stop sequence, see `cut`.
        also: What may be defined in its place.

    >>> program_of("    return 1", prompt="def f():\n", entry="f")
    'def f():\n    return 1'
    >>> program_of("Sure.\n```python\ndef f():\n    return one\n```", prompt="one = 1\ndef f():\n", entry="f")
    'one = 1\ndef f():\n    return one\n'
    """
    names = [name for name in (entry, also) if name is not None]
    code = code_of(text, names)
    if entry is None:
        return code
    if any(defines(code, name) for name in names):
        before = preamble(prompt, entry)
        return behind(before, code) if before else code
    return prompt + (cut(code) if stops else code)


def behind(head: str, code: str) -> str:
    r"""Return a head and the code after it, with the code's imports from `__future__` first, where they must stand.

    >>> behind("import math", "from __future__ import annotations\nx = 1")
    'from __future__ import annotations\nimport math\nx = 1'
    """
    return f"{''.join(_FUTURE.findall(code))}{head}\n{_FUTURE.sub('', code)}"


def unusable(program: str) -> str:
    r"""Return why a program cannot be run at all, empty where it can.

    >>> unusable("x = 1"), unusable("\0")
    ('', 'null character')
    """
    if not program.strip():
        return "no program"
    if len(program) > LONGEST:
        return f"longer than {LONGEST:,} characters"
    if "\0" in program:
        return "null character"
    if any("\ud800" <= character <= "\udfff" for character in program):
        return "half a character"
    return ""


def _outdented(line: str, margin: str) -> str:
    """Return a line without the margin of its fence, as far as it has one: a block may stand in a list."""
    shared = 0
    while shared < len(margin) and line[shared : shared + 1] == margin[shared]:
        shared += 1
    return line[shared:]


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
