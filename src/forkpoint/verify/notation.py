r"""How an answer is written, before anything parses it: TeX arguments, brackets, lists, and what cannot be read.

A parser that guesses is a verifier that can be fooled: `4 \, 5` read as 4 + 5, `4.5.6` as 4.5 times 0.6, `1,2,\ldots`
without its dots. Such answers are refused here, by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from forkpoint.verify.exact import strip_wrapping

_TAKES = {"frac": 2, "sqrt": 1, "binom": 2}
_COMMAND = re.compile(r"\\(?:[dtc]?(frac)|[dt]?(binom)|(sqrt))(?![a-zA-Z])\s*(\[[^\[\]]*\])?")
_ROOT_CALL = re.compile(r"(?:\\|(?<![a-zA-Z\\]))sqrt\s*(?=\()")
_SEPARATOR = re.compile(
    r",(?!\\!)|;|\\(?:text|mbox|textrm|mathrm)\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])"
)
_STRANGE = re.compile(r"[^\x09\x0a\x0d\x20-\x7e\u0080-\u03ff\u2000-\u22ff]|#|&(?!.*\\end)", re.DOTALL)
_SIGN = r"(?:[*/^_=<>:;,]|\\(?:cdot|times|div|cup|cap|le|ge|leq|geq|neq|in|to)(?![a-zA-Z]))"
_DANGLING = re.compile(rf"^\s*{_SIGN}|(?:{_SIGN}|[-+]|\\[pm][pm])\s*$")
_OUTER_BLANK = re.compile(r"^(?:\\[ ,;:!]|\\q?quad|~|\s)+|(?:\\[ ,;:!]|\\q?quad|~|\s)+$")
_BRACKETS = {"(": ")", "[": "]", "\\{": "\\}", "\\langle": "\\rangle"}


def explicit_arguments(text: str) -> str:
    r"""Write the arguments of fractions, roots and binomials with braces, as TeX reads them.

    >>> explicit_arguments(r"\tfrac12 + \sqrt3 + \frac{1}n + \frac\pi2")
    '\\frac{1}{2} + \\sqrt{3} + \\frac{1}{n} + \\frac{\\pi}{2}'
    >>> explicit_arguments(r"4\sqrt(2)"), explicit_arguments("sqrt(x(y+1))")
    ('4\\sqrt{2}', '\\sqrt{x(y+1)}')
    """
    while call := _ROOT_CALL.search(text):
        end = _closing(text, call.end())
        if end is None:
            break
        text = f"{text[: call.start()]}\\sqrt{{{text[call.end() + 1 : end]}}}{text[end + 1 :]}"
    out, position = [], 0
    while command := _COMMAND.search(text, position):
        out.append(text[position : command.start()])
        name = command[1] or command[2] or command[3]
        out.append(f"\\{name}{command[4] or ''}")
        position = command.end()
        for _ in range(_TAKES[name]):
            argument, position = _argument(text, position)
            out.append(f"{{{explicit_arguments(argument)}}}")
    return "".join(out) + text[position:]


def explicit_products(text: str) -> str:
    r"""Write the multiplication between a number and a bracket, which the parser takes for a mixed number.

    >>> explicit_products("2(3)"), explicit_products("(x+1)(x-1)"), explicit_products(r"\log_2(3)")
    ('2 \\cdot (3)', '(x+1) \\cdot (x-1)', '\\log_2(3)')
    """
    text = re.sub(r"(?<![\w.^{}\\])(\d+(?:\.\d+)?)\s*(?=\()", r"\1 \\cdot ", text)
    return re.sub(r"\)\s*(?=[(\d])", r") \\cdot ", text)


def _argument(text: str, start: int) -> tuple[str, int]:
    """Return the next TeX argument, without braces, and where it ends: a group, a command or one character."""
    while start < len(text) and text[start].isspace():
        start += 1
    if text[start : start + 1] == "{":
        end = _closing(text, start)
        return (text[start + 1 :], len(text)) if end is None else (text[start + 1 : end], end + 1)
    match = re.compile(r"\\[a-zA-Z]+|\\?.|", re.DOTALL).match(text, start)
    return (match.group(), match.end()) if match else ("", start)


def _closing(text: str, start: int) -> int | None:
    """Return where the bracket that opens at a position closes, counting brackets of every kind."""
    depth = 0
    for match in re.compile(r"[({\[]|[)}\]]").finditer(text, start):
        depth += 1 if match.group() in "({[" else -1
        if depth == 0:
            return match.start()
    return None


def bracketed(text: str) -> tuple[str, str, str] | None:
    r"""Return the outer brackets of an answer and what is between them, None where no pair encloses all of it.

    >>> bracketed(r"\{1, 2\}"), bracketed("[1, 2)"), bracketed("(1,2),(3,4)")
    (('\\{', '1, 2', '\\}'), ('[', '1, 2', ')'), None)
    """
    for left in _BRACKETS:
        for right in {_BRACKETS[left], ")", "]"} if left in "([" else {_BRACKETS[left]}:
            if text.startswith(left) and text.endswith(right) and len(text) > len(left) + len(right):
                inner = text[len(left) : len(text) - len(right)]
                depth = lowest = 0
                for match in re.finditer(r"[({\[]|[)}\]]", inner):
                    depth += 1 if match.group() in "({[" else -1
                    lowest = min(lowest, depth)
                return None if lowest < 0 else (left, inner.strip(), right)
    return None


def parts(text: str) -> list[str]:
    r"""Return the answers of a list: split at commas, semicolons, `and` and `or` outside of brackets.

    The braces of a set go. A comma in braces or before `\!` separates digits and not answers.

    >>> parts(r"(1,2), (3,4) \text{ or } (5,6)"), parts(r"\{1, 2\}"), parts("10{,}000; 5")
    (['(1,2)', '(3,4)', '(5,6)'], ['1', '2'], ['10{,}000', '5'])
    """
    text = strip_wrapping(text)
    if (found := bracketed(text)) and found[0] == "\\{":
        text = found[1]
    pieces, start, seen, depth = [], 0, 0, 0
    for cut in _SEPARATOR.finditer(text):
        depth += sum((mark in "({[") - (mark in ")}]") for mark in text[seen : cut.start()])
        seen = cut.start()
        if depth == 0:
            pieces.append(text[start : cut.start()])
            start = cut.end()
    pieces.append(text[start:])
    return [plain for piece in pieces if (plain := _OUTER_BLANK.sub("", piece))]


def _side_by_side(text: str) -> bool:
    plain = re.sub(r"\\[ ,;:!]|\\q?quad(?![a-zA-Z])|~|\{\s*\}", " ", text)
    adjacent = r"(?<![\d._^])\d+(?:\.\d+)?(?:\s+\d|\s*\{\s*\d)|(?<![a-zA-Z\]}^_\\])\{[^{},]*\}\s*[\d{]"
    return bool(re.search(adjacent, plain))


def _unbalanced(text: str) -> bool:
    depth = braces = 0
    for mark in re.findall(r"[(){}\[\]]", text):
        depth += 1 if mark in "([{" else -1
        braces += (mark == "{") - (mark == "}")
        if depth < 0 or braces < 0:
            return True
    return bool(depth or braces)


UNREADABLE: Mapping[str, Callable[[str], bool]] = {
    "unbalanced brackets": _unbalanced,
    "a character that is no mathematics": lambda text: bool(_STRANGE.search(text)),
    "a sign without a value": lambda text: bool(_DANGLING.search(text)),
    "numbers side by side": _side_by_side,
    "a number with two points": lambda text: bool(re.search(r"\.\s*\d+\s*\.|\.\s+\.", text)),
    "an ellipsis": lambda text: bool(re.search(r"\\(?:[lcv]?dots|dots[cbmio])(?![a-zA-Z])|\.\.\.|…", text)),
    "invisible or struck parts": lambda text: bool(re.search(r"\\(?:[hv]?phantom|[hv]space|cancel|not|color)", text)),
    "a double factorial": lambda text: bool(re.search(r"!\s*!", text)),
    "a base inside an expression": lambda text: bool(re.search(r"\d\s*_", text)),
}
"""Name -> whether an answer has it. Parsers drop or repair these, so what they read is not what was written."""


def unreadable(text: str) -> str:
    r"""Return the first of `UNREADABLE` that an answer has, or "".

    >>> unreadable(r"4 \, 5"), unreadable("4.5.6"), unreadable(r"1,2,\ldots"), unreadable(r"\log_2 3")
    ('numbers side by side', 'a number with two points', 'an ellipsis', '')
    """
    plain = explicit_arguments(text) if "\\" in text else text
    return next((name for name, has in UNREADABLE.items() if has(plain)), "")


def based(answer: str) -> tuple[str, int] | None:
    r"""Return the digits of a number with its base, such as `2516_8`, without leading zeros; None for others.

    >>> based("2516_8"), based(r"1A_{16}"), based(r"101_{\text{two}}"), based("x_1")
    (('2516', 8), ('1A', 16), None, None)
    """
    match = re.fullmatch(r"(\d[\dA-Z]*)\s*_\s*(?:\{\s*(\d{1,2})\s*\}|(\d))", answer)
    return (match[1].lstrip("0") or "0", int(match[2] or match[3])) if match else None


def same_brackets(gold: str, answer: str) -> bool:
    r"""Return False where one is a set in braces and the other a tuple or interval, or a pair is not in both a pair.

    `1, 3` and `(1, 3)` differ as well: the first are two answers, the second may be an interval. Lists of three and
    more may drop their brackets, which then have one reading only.

    >>> same_brackets(r"\{1,3\}", "(1,3)"), same_brackets("1,3", "(1,3)"), same_brackets("(1,3)", "1,3")
    (False, False, True)
    """
    left, right = bracketed(gold), bracketed(answer)
    if left and right:
        return (left[0] == "\\{") == (right[0] == "\\{") or len(parts(right[1])) < 2
    if right and right[0] != "\\{" and "=" not in gold:
        return not (len(parts(gold)) == len(parts(right[1])) == 2)
    return True


def choice_letters(text: str) -> frozenset[str]:
    r"""Return the choice letters an answer names, empty where it names none or hedges.

    >>> sorted(choice_letters(r"\text{(A), (C)}")), choice_letters("A. 5 or B. 6"), choice_letters("apple")
    (['A', 'C'], frozenset(), frozenset())
    """
    plain = re.sub(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r" \1 ", strip_wrapping(text))
    plain = re.sub(r"\\[ ,;:!]|\\q?quad|~|[{}]", " ", plain).strip().removesuffix(".").strip()
    letters = [re.fullmatch(r"\s*[(\[]?\s*([A-Za-z])\s*[)\]]?\s*", part) for part in re.split(r",|\band\b|;", plain)]
    if all(letters):
        return frozenset(match[1].upper() for match in letters if match)
    if re.fullmatch(r"[A-Z]{2,5}", plain) and list(plain) == sorted(set(plain)):
        return frozenset(plain)
    option = re.match(r"(?:[(\[]\s*([A-Z])\s*[)\]]|([A-Z])\s*[).:])\s*(?P<rest>\S.*)$", plain, re.DOTALL)
    another = r"[(\[]\s*[A-Z]\s*[)\]]|(?<![A-Za-z])[A-Z](?:\s*[).:]|$)|\bor\b|/\s*[A-Z]\b"
    if option and not re.search(another, option["rest"]):
        return frozenset(option[1] or option[2])
    return frozenset()
