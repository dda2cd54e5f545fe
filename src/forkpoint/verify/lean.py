r"""Proofs in Lean 4 as answers: the verdict of a local `lean` on the row's own statement.

No real Lean was run in the making of this: it was written against the documentation of Lean 4 (`lean --json`,
`#print axioms`, `type_of%`) and tested with an executable that behaves as `lean` does. What the model writes is refused
or checked by `lean_source`; `lean_run` says which protections hold while Lean runs.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from forkpoint.errors import InputError, did_you_mean
from forkpoint.rollouts import Judgement, Prompt, Verdict
from forkpoint.tasks.task import Judge
from forkpoint.verify.lean_run import Lean, Ran, find_lean, run_lean
from forkpoint.verify.lean_source import (
    FORBIDDEN,
    MAX_CODE,
    Source,
    Theorem,
    assemble,
    code_block,
    own_lines,
    read_theorem,
    refusal,
    take_imports,
    without_comments,
)  # fmt: skip

AXIOMS = ("propext", "Quot.sound", "Classical.choice")
"""Axioms of Lean's own logic."""
NATIVE = ("Lean.ofReduceBool", "Lean.ofReduceNat", "Lean.trustCompiler")
"""Axioms by which `native_decide` trusts the compiler."""
DETAIL_LENGTH = 120
Found = tuple[Verdict, str]
_AXIOMS = re.compile(r"depends on axioms:\s*\[(.*)\]", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class LeanSettings:
    """How proofs are read and checked."""

    header: str = ""
    """Lean text above a statement whose row has no header: imports, `open`."""
    header_field: str = "header"
    """Field of a row's metadata, or of `extra_info` there, that holds its header."""
    statement_field: str = ""
    """Field with the statement; the reference answer where empty."""
    block: Literal["fenced", "whole"] = "fenced"
    """Where the code stands in an answer, see `lean_source.code_block`."""
    allow: tuple[str, ...] = ()
    """Forbidden words that an answer may hold all the same; `native_decide` allows its axioms too."""
    axioms: tuple[str, ...] = AXIOMS
    """Axioms a proof may rest on."""
    over_limit: Literal["wrong", "unjudged"] = "wrong"
    """What a proof is on which Lean runs past the deadline, out of memory, or crashes."""
    deadline: float = 60.0
    """Seconds for one proof, imports included."""


def lean_judge(
    *,
    binary: str = "lean",
    libraries: str = "",
    header: str = "",
    header_field: str = "header",
    statement_field: str = "",
    block: Literal["fenced", "whole"] = "fenced",
    allow: Sequence[str] = (),
    axioms: Sequence[str] = AXIOMS,
    over_limit: Literal["wrong", "unjudged"] = "wrong",
    deadline: float = 60.0,
    memory: float = 32.0,
    workers: int = 1,
) -> Judge:
    """Return the verifier of Lean 4 proofs.

        R = 1 where Lean accepts the proof of the row's own statement, from permitted axioms; else 0

    The row's reference answer is the theorem, open at its end (`:= by sorry`, `:= by`, `:=` or nothing). The answer is
    a proof of it (tactics, a `by` block, a term after `:=`) or a whole file with a theorem of that name. `unjudged` is
    what cannot be judged because of the row or the machine: no theorem, a statement that Lean itself refuses, a Lean
    that does not start.

    Args:
        binary: name on PATH or path of `lean`.
        libraries: `LEAN_PATH`, such as what `lake env printenv LEAN_PATH` prints in a project with Mathlib.
        header: see `LeanSettings`, as the next seven.
        header_field: field with a row's header.
        statement_field: field with a row's statement.
        block: `fenced` or `whole`.
        allow: words of `lean_source.FORBIDDEN`, or commands that begin with #.
        axioms: names of permitted axioms.
        over_limit: `wrong` or `unjudged`.
        deadline: seconds for one proof, > 0.
        memory: GiB of address space for one Lean, > 0.
        workers: how many run at once, >= 1.

    Returns:
        `judge(prompts, texts) -> list[Judgement]`; nothing has to be closed.

    Raises:
        InputError: there is no such binary, it is no Lean 4, or a setting is out of range.

    Source: the binary reward of arXiv 2504.06122 as its README and abstract describe it; its values for time-outs are
        not published.
    """
    for name, value, known in (
        ("block", block, ("fenced", "whole")),
        ("over_limit", over_limit, ("wrong", "unjudged")),
    ):
        if value not in known:
            raise InputError(f"{name} = {value!r} is none of {', '.join(known)}")
    if isinstance(allow, str) or isinstance(axioms, str):
        raise InputError("allow and axioms of the verifier 'lean' are lists of words")
    for word in allow:
        if word not in FORBIDDEN and not word.startswith("#"):
            raise InputError(f"allow names {word!r}, which is not forbidden: {did_you_mean(word, FORBIDDEN)}")
    if deadline <= 0 or workers < 1:
        raise InputError(f"the verifier 'lean' needs deadline > 0 and workers >= 1, not {deadline} and {workers}")
    settings = LeanSettings(
        header=header, header_field=header_field, statement_field=statement_field, block=block, allow=tuple(allow),
        axioms=(*axioms, *(NATIVE if "native_decide" in allow else ())), over_limit=over_limit, deadline=deadline,
    )  # fmt: skip
    lean = find_lean(binary, libraries=libraries, memory=memory)

    def judge(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Judgement]:
        rows = list(zip((stated(prompt, settings) for prompt in prompts), texts, strict=True))
        different = list(dict.fromkeys(rows))
        with ThreadPoolExecutor(max_workers=workers) as pool:
            found = dict(
                zip(different, pool.map(lambda row: _judged(row[0], row[1], settings, lean), different), strict=True)
            )
        return [_judgement(*found[row]) for row in rows]

    return judge


def stated(prompt: Prompt, settings: LeanSettings) -> Theorem | str:
    """Return the theorem of a row, or why there is none."""
    field = settings.statement_field
    statement = _field(prompt.meta, field) if field else prompt.answer
    if not statement:
        return f"no field {field}" if field else "no reference answer"
    return read_theorem(statement, _field(prompt.meta, settings.header_field) or settings.header)


def source_of(theorem: Theorem, text: str, settings: LeanSettings, key: str) -> Source | Found:
    """Return the file that decides on an answer, or the verdict that needs no Lean.

    >>> theorem = read_theorem("theorem t : 1 = 1 := by sorry")
    >>> source_of(theorem, "It is clear.", LeanSettings(), "k")[1]
    'no code block'
    """
    block = code_block(text, settings.block)
    if block is None:
        return Verdict.WRONG, "no code block"
    if len(block) > MAX_CODE:
        return Verdict.WRONG, "code over the cap"
    code = own_lines(without_comments(block), theorem.context)
    imports, code = take_imports(code) if "import" in settings.allow else ([], code)
    why = refusal(code, settings.allow)
    if why is not None:
        return Verdict.WRONG, f"refused: {why}"
    if not code.strip():
        return Verdict.WRONG, "no proof"
    return assemble(theorem, code, key, imports)


def verdict(ran: Ran, source: Source, settings: LeanSettings) -> Found:
    """Return what a run of Lean means.

    Args:
        ran: how it ended.
        source: the file it read.
        settings: permitted axioms, and what a run past a limit means.
    """
    errors = [message for message in ran.messages if message.severity == "error"]
    above = next((one.text for one in errors if one.line < source.answer_line), None)
    if above is not None:
        return Verdict.UNJUDGED, f"the statement does not compile: {above}"
    if ran.code is None:
        return Verdict(settings.over_limit), "deadline"
    if errors:
        where = "not the row's statement: " if errors[0].line >= source.check_line else "lean: "
        return Verdict.WRONG, where + errors[0].text
    if ran.code < 0 or ran.code > 128 or "INTERNAL PANIC" in ran.said:
        return Verdict(settings.over_limit), f"lean crashed or ran out of memory or room ({ran.code}): {ran.said}"
    if ran.code != 0:
        return Verdict.UNJUDGED, f"lean ended with {ran.code}: {ran.said}"
    axioms = _printed(ran, source)
    if axioms is None:
        return Verdict.WRONG, "the file ends before the theorem was checked"
    extra = [name for name in axioms if name not in settings.axioms]
    return (Verdict.WRONG, f"rests on {', '.join(extra)}") if extra else (Verdict.RIGHT, "proved")


def _printed(ran: Ran, source: Source) -> list[str] | None:
    """Return the axioms that Lean printed of the check, None where it printed nothing of it."""
    line = source.check_line + 1
    told = [one.text for one in ran.messages if one.line == line and f"{source.check}'" in one.text]
    if len(told) != 1:
        return None
    if "does not depend on any axioms" in told[0]:
        return []
    listed = _AXIOMS.search(told[0])
    return [name.strip() for name in listed[1].split(",")] if listed else None


def _judged(theorem: Theorem | str, text: str, settings: LeanSettings, lean: Lean) -> Found:
    if isinstance(theorem, str):
        return Verdict.UNJUDGED, theorem
    source = source_of(theorem, text, settings, secrets.token_hex(8))
    if not isinstance(source, Source):
        return source
    return verdict(run_lean(lean, source.text, settings.deadline), source, settings)


def _field(meta: Mapping[str, Any], name: str) -> str:
    extra = meta.get("extra_info")
    return str({**(extra if isinstance(extra, Mapping) else {}), **meta}.get(name) or "")


def _judgement(found: Verdict, detail: str) -> Judgement:
    reward = 1.0 if found is Verdict.RIGHT else 0.0
    told = " ".join(detail.split())[:DETAIL_LENGTH]
    return Judgement(verdict=found, reward=reward, parts={"answer": reward}, detail=told)
