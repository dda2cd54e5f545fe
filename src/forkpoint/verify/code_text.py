r"""From a completion to a program: the fenced block that counts, and what a prompt adds to it.

Harnesses ask in two ways. A base model continues the prompt, so the program is prompt + completion; a chat model
writes the whole function in a fenced block, so the program is the block behind the imports and helper functions that
the prompt defines. Which of the two it is shows in the code: whether it defines the function that is asked for.
"""

from __future__ import annotations

import ast
import re
import warnings

LONGEST = 100_000
"""Characters of a program; a longer one is not run."""
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+.#-]*)")
_PYTHON = ("python", "python3", "py", "py3")
_FUTURE = re.compile(r"^from __future__ import [\w, ]+\n", re.MULTILINE)
_STOP = re.compile(r"^(?:class|def|if|print)\b|^#", re.MULTILINE)


def fenced(text: str) -> list[tuple[str, str]]:
    r"""Return the fenced blocks of a text: language in lower case, and content with its indentation.

    One pass over the lines. A block ends at a fence of its own kind that names no language; the last may be open, as
    in an answer that was cut off.

    >>> fenced("so\n```python\nx = 1\n```\n~~~\ny\n")
    [('python', 'x = 1\n'), ('', 'y\n')]
    """
    blocks: list[tuple[str, str]] = []
    mark, language, lines = "", "", list[str]()
    for line in text.splitlines(keepends=True):
        fence = _FENCE.match(line)
        if fence is None:
            if mark:
                lines.append(line)
        elif not mark:
            mark, language, lines = fence[1], fence[2].lower(), []
        elif fence[1].startswith(mark) and not line[fence.end(1) :].strip():
            blocks.append((language, "".join(lines)))
            mark = ""
        else:
            lines.append(line)
    if mark:
        blocks.append((language, "".join(lines)))
    return blocks


def code_of(text: str) -> str:
    r"""Return the code of a completion: the last block marked as Python, else the last block, else all of the text.

    >>> code_of("a ```x``` b"), code_of("```py\nx\n```\n```\n1\n```")
    ('a ```x``` b', 'x\n')
    """
    blocks = fenced(text)
    python = [code for language, code in blocks if language in _PYTHON]
    return (python or [code for _, code in blocks] or [text])[-1]


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


def program_of(text: str, *, prompt: str = "", entry: str | None = None, stops: bool = False) -> str:
    r"""Return the program that a completion amounts to.

    Args:
        text: The completion; any text.
        prompt: What a continuation continues, as Python.
        entry: The function that is asked for; None where the program is whole.
        stops: End a continuation at the first stop sequence, see `cut`.

    >>> program_of("    return 1", prompt="def f():\n", entry="f")
    'def f():\n    return 1'
    >>> program_of("Sure.\n```python\ndef f():\n    return one\n```", prompt="one = 1\ndef f():\n", entry="f")
    'one = 1\ndef f():\n    return one\n'
    """
    code = code_of(text)
    if entry is None:
        return code
    if defines(code, entry):
        before = preamble(prompt, entry)
        # Such imports must come first in a file.
        future = "".join(_FUTURE.findall(code))
        return f"{future}{before}\n{_FUTURE.sub('', code)}" if before else code
    return prompt + (cut(code) if stops else code)


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


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
