r"""From a theorem and a model's text to the one Lean 4 file whose messages decide, and what that text may not hold.

A row's own statement is elaborated before anything the model wrote, under a name the model cannot know. What the
model wrote stands in a section after it, and after that section this is asked for:

    theorem CHECK : type_of% @GOAL := @NAME
    #print axioms CHECK

The kernel checks CHECK against the type that the row's statement has, so no definition, instance or variable of the
model can change what is proved; the axioms say whether it is proved. That holds as long as the model's text cannot
change how the last two lines are read, run code, or forge their messages: `refusal` keeps out the words that could.
Comments are taken out before the words are looked for, and the file holds the text without them.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_CODE = 100_000
"""Characters of an answer's code that are compiled."""
FORBIDDEN = (
    "import", "axiom", "sorry", "sorryAx", "admit", "stop", "constant", "unsafe", "implemented_by", "extern", "csimp",
    "native_decide", "ofReduceBool", "ofReduceNat", "trustCompiler", "reduceBool", "reduceNat", "native", "set_option",
    "initialize", "include_str", "by_elab", "infix", "infixl", "infixr", "prefix", "postfix", "notation", "notation3",
    "macro", "macro_rules", "syntax", "elab", "elab_rules", "simproc", "simproc_decl", "dsimproc", "dsimproc_decl",
    "binder_predicate", "unif_hint", "IO", "EIO", "BaseIO", "println", "timeit", "allocprof", "System", "UV", "Lean",
    "Elab", "MetaM", "CoreM", "TacticM", "TermElabM", "CommandElabM", "ProofWidgets", "Plausible", "plausible",
    "slim_check", "polyrith", "show_panel_widgets", "with_panel_widgets", "lcProof", "lcUnreachable", "lcAny",
)  # fmt: skip
"""Words that extend the language, run code, read files, leave the kernel out or assume something.

Lean evaluates terms of an answer while it reads it, such as the settings of a tactic. Pure terms may be; the words by
which one reaches the world may not.
"""
FAMILIES = ("builtin_", "declare_", "register_", "run_", "macro_", "elab_", "syntax_", "unsafe", "dbg")
"""Beginnings of words that do the same."""
HARMLESS = ("elab_as_elim",)
OPTIONS = ("maxHeartbeats", "maxRecDepth", "synthInstance.maxHeartbeats", "synthInstance.maxSize")
"""Options an answer may set: they bound work."""
ATTRIBUTES = (
    "simp", "ext", "reducible", "irreducible", "instance", "norm_cast", "push_cast", "gcongr", "refl", "symm", "trans",
    "elab_as_elim",
)  # fmt: skip
"""Attributes an answer may set; others can name code that Lean runs."""

_DECLARED = re.compile(
    r"^[ \t]*(?:@\[[^\]]*\]\s*)?(?:(?:private|protected|noncomputable|nonrec)\s+)*(?:theorem|lemma)\s+"
    r"(?P<name>(?:«[^»\n]*»|[^\s({\[⦃:.«]+)(?:\.(?:«[^»\n]*»|[^\s({\[⦃:.«]+))*)(?P<levels>\.\{[^}]*\})?",
    re.MULTILINE,
)
_OPEN_END = re.compile(r"\s*(?::=\s*(?:by\b)?\s*(?:\bsorry\b)?)?(?:\s*^end\b[^\n]*)*\s*\Z", re.MULTILINE)
_RUN = re.compile(r"[0-9A-Za-z_]+")
_COMMAND = re.compile(r"#[A-Za-z_]\w+")
_OPTION = re.compile(r"\bset_option\s+([\w.]+)")
_EVALUATED = re.compile(r"\b(?:eval|by_elab)%")
_CONFIG = re.compile(r"config\b»?\s*(?P<value>:=\s*(?:\{[^{}()«»]*\})?)?")
_SETTINGS = re.compile(r"\s*(?:\w+\s*:=\s*(?:\d+|true|false|\.?[A-Za-z]+(?:\.[A-Za-z]+)*)\s*(?:,\s*|$))*")
_ATTRIBUTE = re.compile(r"(?:@|\battribute\s*)\[([^\]]*)\]?")


@dataclass(frozen=True, kw_only=True)
class Theorem:
    """What is to be proved."""

    context: str
    """Everything above the statement: imports, options, definitions."""
    name: str
    levels: str
    """`.{u v}` after the name, or empty."""
    signature: str
    """Binders, colon and type."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file for Lean, and where in it is what."""

    text: str
    answer_line: int
    """First line of what the model wrote, from 1; everything above is the row's."""
    check_line: int
    """Line of the theorem that says that the row's statement was proved; its axioms are printed on the next."""
    check: str
    """Name of that theorem."""


def read_theorem(statement: str, header: str = "") -> Theorem | str:
    r"""Return the theorem a row states, or what is wrong with it.

    Args:
        statement: Lean text whose last theorem is to be proved: without a proof, or with `:=`, `:= by` or
            `:= by sorry` in the place of one. What stands above it is kept.
        header: Lean text that comes first, such as imports.

    >>> found = read_theorem("def two := 2\ntheorem easy (n : Nat) : n = n := by sorry", "import Init")
    >>> found.name, found.signature, found.context
    ('easy', ' (n : Nat) : n = n', 'import Init\ndef two := 2')
    """
    bare = without_comments(statement)
    declared = list(_DECLARED.finditer(bare))
    if not declared:
        return "the statement names no theorem"
    last = declared[-1]
    signature = _OPEN_END.sub("", bare[last.end() :], count=1)
    if ":" not in signature:
        return "the statement has no type"
    above = (header.strip("\n"), bare[: last.start()].strip("\n"))
    return Theorem(
        context="\n".join(part for part in above if part.strip()), name=last["name"], levels=last["levels"] or "",
        signature=signature,
    )  # fmt: skip


def code_block(text: str, block: str = "fenced") -> str | None:
    r"""Return the Lean code of an answer, None where there is none.

    Args:
        text: what the model wrote.
        block: `fenced` takes the last closed block of backticks marked `lean` or `lean4`, or of those without a mark;
            `whole` takes the text up to the first line of backticks, for models that continue an open block.

    >>> code_block("So:\n```lean4\nsimp\n```\nDone.")
    'simp'
    """
    marked: str | None = None
    plain: str | None = None
    mark: str | None = None
    inside: list[str] = []
    for line in text.split("\n"):
        fence = line.strip()
        if not fence.startswith("```"):
            inside.append(line)
        elif block == "whole":
            break
        elif mark is None or fence != "```":
            mark, inside = fence.strip("`").strip().lower(), []
        else:
            code = "\n".join(inside)
            marked = code if mark in ("lean", "lean4", "lean 4") else marked
            plain = code if mark == "" else plain
            mark, inside = None, []
    found = "\n".join(inside) if block == "whole" else marked if marked is not None else plain
    return found if found is not None and found.strip() else None


def without_comments(code: str) -> str:
    r"""Return Lean code with every comment replaced by a blank; an open one reaches to the end.

    >>> without_comments("simp -- easy\n/- a /- b -/ c -/ done")
    'simp  \n  done'
    """
    kept: list[str] = []
    place = 0
    for found in re.finditer(r"--[^\n]*|/-", code):
        if found.start() < place:
            continue
        kept.append(code[place : found.start()])
        place = found.end() if found[0] != "/-" else _closed(code, found.end())
        kept.append(" ")
    return "".join([*kept, code[place:]])


def _closed(code: str, start: int) -> int:
    """Return where a block comment ends whose text starts here."""
    depth = 1
    for found in re.compile(r"/-|-/").finditer(code, start):
        depth += 1 if found[0] == "/-" else -1
        if depth == 0:
            return found.end()
    return len(code)


def refusal(code: str, allow: Iterable[str] = ()) -> str | None:
    """Return the first thing in a model's code that is not allowed, or None.

    A word counts wherever it stands, in a string and inside a name with dots too. After a digit every letter counts,
    since Lean ends a number where a word could begin. `config := ` takes a list of names, numbers, true and false.

    Args:
        code: without comments.
        allow: words of `FORBIDDEN` that are allowed all the same, or commands such as `#eval`.

    >>> refusal("theorem t : True := by simp"), refusal("local macro x"), refusal("def a := 0xAmacro")
    (None, 'macro', 'macro')
    """
    allowed = frozenset(allow)
    words = [word for word in FORBIDDEN if word not in allowed and word != "set_option"]
    for found in _RUN.finditer(code):
        run = found[0]
        if run in allowed or run in HARMLESS:
            continue
        if run in words or run.startswith(FAMILIES):
            return run
        if run[0].isdigit():
            for word in (*words, *FAMILIES):
                if word in run:
                    return word
    for found in _COMMAND.finditer(code):
        if found[0] not in allowed:
            return found[0]
    if _EVALUATED.search(code):
        return "eval%"
    return _refused_option(code, allowed) or _refused_attribute(code) or _refused_config(code)


def _refused_option(code: str, allowed: frozenset[str]) -> str | None:
    if "set_option" in allowed:
        return None
    named = _OPTION.findall(code)
    if code.count("set_option") != len(named):
        return "set_option"
    return next((f"set_option {name}" for name in named if name not in OPTIONS), None)


def _refused_attribute(code: str) -> str | None:
    for listed in _ATTRIBUTE.findall(code):
        for item in listed.split(","):
            words = [word for word in item.replace("[", " [ ").split() if word not in ("local", "scoped")]
            name = words[0].removeprefix("-") if words else ""
            if name not in ATTRIBUTES or "[" in words:
                return f"attribute {name}"
    return None


def _refused_config(code: str) -> str | None:
    for found in _CONFIG.finditer(code):
        value = found["value"]
        if value is not None and not ("{" in value and _SETTINGS.fullmatch(value[value.index("{") + 1 : -1])):
            return "config"
    return None


def own_lines(code: str, context: str) -> str:
    r"""Return a model's code without the lines at its beginning that repeat the row's context.

    >>> own_lines("import Mathlib\nopen Nat\n\ntheorem t : 1 = 1 := rfl", "import Mathlib\nopen Nat")
    'theorem t : 1 = 1 := rfl'
    """
    known = {line.strip() for line in without_comments(context).split("\n")} | {""}
    lines = code.split("\n")
    first = next((place for place, line in enumerate(lines) if line.strip() not in known), len(lines))
    return "\n".join(lines[first:])


def take_imports(code: str) -> tuple[list[str], str]:
    """Return the import lines at the beginning of a code, and the rest."""
    lines = code.split("\n")
    end = next((n for n, line in enumerate(lines) if line.strip() and not line.startswith("import ")), len(lines))
    return [line for line in lines[:end] if line.strip()], "\n".join(lines[end:])


def assemble(theorem: Theorem, code: str, key: str, imports: Sequence[str] = ()) -> Source:
    """Return the file that Lean is to check.

    Args:
        theorem: what is to be proved.
        code: the model's code, without comments: declarations among which one has the theorem's name, or a proof
            alone: tactics, or a term after `:=`.
        key: letters and digits that the model cannot know.
        imports: lines for the top of the file.
    """
    goal, section, check = f"goal_{key}", f"answer_{key}", f"check_{key}"
    above = [
        *imports, *(theorem.context.split("\n") if theorem.context else ()),
        *f"theorem {goal}{theorem.levels}{theorem.signature} := sorry".split("\n"), f"section {section}",
    ]  # fmt: skip
    answer = (code if _declares(code, theorem.name) else proved(theorem, code)).split("\n")
    below = [f"end {section}", f"theorem {check} : type_of% @{goal} := @{theorem.name}", f"#print axioms {check}"]
    return Source(
        text="\n".join([*above, *answer, *below, ""]), answer_line=len(above) + 1,
        check_line=len(above) + len(answer) + 2, check=check,
    )  # fmt: skip


def proved(theorem: Theorem, proof: str) -> str:
    """Return the theorem with a proof: tactics, a `by` block, or a term after `:=`."""
    stated = f"theorem {theorem.name}{theorem.levels}{theorem.signature} :="
    body = textwrap.dedent(proof).strip("\n")
    if body.lstrip().startswith(":="):
        return f"{stated} {body.lstrip()[2:].lstrip()}"
    if re.match(r"\s*by\b", body):
        return f"{stated} {body.lstrip()}"
    return f"{stated} by\n" + textwrap.indent(body, "  ")


def _declares(code: str, name: str) -> bool:
    return re.search(rf"\b(?:theorem|lemma)\s+{re.escape(name)}(?![\w'!?]|\.[^{{])", code) is not None
