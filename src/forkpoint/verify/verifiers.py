r"""Verifiers by name, for tasks and benchmarks: one table of functions, and a choice for every row."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from forkpoint.errors import InputError, did_you_mean
from forkpoint.rollouts import Judgement, Prompt, Verdict
from forkpoint.tasks.task import Judge
from forkpoint.verify.code import code_judge
from forkpoint.verify.code_output import output_judge
from forkpoint.verify.exact import number
from forkpoint.verify.lean import lean_judge
from forkpoint.verify.math import MathJudge, RowRule, Search, math_judge
from forkpoint.verify.rules import Rule

RULES: Mapping[str, Rule] = {
    "math": Rule(),
    "number": Rule(kind="number"),
    "list": Rule(several=True),
    "interval": Rule(kind="interval"),
    "tuple": Rule(kind="tuple"),
    "equation": Rule(kind="equation"),
    "choice": Rule(kind="choice"),
    "exact": Rule(kind="exact"),
    "string": Rule(kind="string"),
}
"""Verifiers that are one rule for all rows."""


def of_rule(rule: Rule | RowRule, *, gold: str = "auto") -> Callable[..., MathJudge]:
    """Return the function that makes a verifier which compares by a rule, or by the rule of every row."""

    def make(
        *,
        extraction: str = "boxed",
        gold_extraction: str = gold,
        deadline: float = 5.0,
        workers: int = 2,
        error: str | float = "",
    ) -> MathJudge:
        if error != "" and (not isinstance(rule, Rule) or number(str(error)) is None):
            raise InputError(f"the tolerance {error!r} is no number, or the rows state their own: leave it out")
        fixed = replace(rule, error=str(error)) if isinstance(rule, Rule) else rule
        return math_judge(
            extraction=extraction, gold_extraction=gold_extraction, deadline=deadline, workers=workers, rule=fixed
        )

    return make


def search_judge(
    *,
    targets: Sequence[str] = ("latex", "expr"),
    precision: int = 6,
    strict: bool = True,
    set_relations: bool = False,
    deadline: float = 5.0,
    workers: int = 2,
) -> MathJudge:
    """Return the verifier that searches prose as math-verify does. For recorded completions, never for rewards."""
    search = Search(targets=tuple(targets), precision=precision, strict=strict, set_relations=set_relations)
    return math_judge(extraction="whole", deadline=deadline, workers=workers, search=search)


ANSWER_TYPES: Mapping[str, str] = {
    "Numerical": "number",
    "Expression": "expression",
    "Interval": "interval",
    "Tuple": "tuple",
    "Equation": "equation",
}
"""`answer_type` of OlympiadBench (arXiv 2402.14008) -> name in `KINDS`."""


def olympiad_rule(meta: Mapping[str, Any]) -> Rule | str:
    """Return the rule of an OlympiadBench row from its own fields, or what is wrong with them.

    >>> olympiad_rule({"answer_type": "Numerical", "is_multiple_answer": False, "unit": "%", "error": "1e-1"})
    Rule(kind='number', several=False, error='1e-1', unit='%')
    """
    kind = ANSWER_TYPES.get(str(meta.get("answer_type")))
    if kind is None:
        return f"answer_type is {meta.get('answer_type')!r}, which is none of {', '.join(ANSWER_TYPES)}"
    error = str(meta.get("error") or "")
    if any(number(part) is None for part in error.split(",") if error):
        return f"error is {error!r}, which is no number"
    return Rule(kind=kind, several=bool(meta.get("is_multiple_answer")), error=error, unit=str(meta.get("unit") or ""))


def olympiad_row(prompt: Prompt) -> Rule | str:
    """Return the rule that an OlympiadBench row states in its metadata, or in `extra_info` there."""
    extra = prompt.meta.get("extra_info")
    return olympiad_rule({**(extra if isinstance(extra, Mapping) else {}), **prompt.meta})


VERIFIERS: Mapping[str, Callable[..., Judge]] = {
    # A string is its own reference; `auto` would look for a box in it.
    **{name: of_rule(rule, gold="whole" if name in ("exact", "string") else "auto") for name, rule in RULES.items()},
    "olympiad": of_rule(olympiad_row),
    "search": search_judge,
    "lean": lean_judge,
    "code-tests": code_judge,
    "code-output": output_judge,
}
"""Name -> a function of keyword settings that returns the verifier."""


def make_verifier(name: str, **settings: Any) -> Judge:
    r"""Return a verifier by name.

    Args:
        name: A name in `VERIFIERS`.
        settings: Keywords of that function, such as `extraction`, `deadline`, `workers`, `error`.

    Returns:
        `judge(prompts, texts) -> list[Judgement]`; where it has a `close`, call it at the end.

    Raises:
        InputError: An unknown name or setting, or a value out of range.

    >>> judge = make_verifier("choice")
    >>> judge([Prompt(id="1", text="", answer="(B)")], [r"so \boxed{\text{B}}"])[0].verdict.value
    'right'
    """
    if name not in VERIFIERS:
        raise InputError(f"unknown verifier {name!r}: {did_you_mean(name, VERIFIERS)}")
    known = inspect.signature(VERIFIERS[name]).parameters
    for setting in settings:
        if setting not in known:
            raise InputError(f"verifier {name!r} has no setting {setting!r}: {did_you_mean(setting, known)}")
    return VERIFIERS[name](**settings)


class RowVerifier:
    """A verifier that gives every row to the one it names: `judge(prompts, texts)`. Made by `by_row`."""

    def __init__(self, judges: Mapping[str, Judge], choose: Callable[[Prompt], str]) -> None:
        self._judges, self._choose = judges, choose

    def __call__(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Judgement]:
        """Return one judgement a row; rows whose verifier is not there are not judged."""
        rows: dict[str, list[int]] = {}
        for row, (prompt, _) in enumerate(zip(prompts, texts, strict=True)):
            rows.setdefault(self._choose(prompt), []).append(row)
        judgements: dict[int, Judgement] = {}
        for name, mine in rows.items():
            judge = self._judges.get(name, _no_verifier(name))
            judgements |= zip(mine, judge([prompts[row] for row in mine], [texts[row] for row in mine]), strict=True)
        return [judgements[row] for row in range(len(texts))]

    def close(self) -> None:
        """End the worker processes of every verifier."""
        for judge in self._judges.values():
            getattr(judge, "close", lambda: None)()

    def __enter__(self) -> RowVerifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def by_row(judges: Mapping[str, Judge], choose: Callable[[Prompt], str] | None = None) -> RowVerifier:
    r"""Return a verifier that gives every row to one of several, each asked once for all of its rows.

    Args:
        judges: Verifiers by name.
        choose: A problem -> the name of its verifier; without it `meta["verifier"]`.

    >>> rows = [Prompt(id=name, text="", answer="b", meta={"verifier": name}) for name in ("string", "choice")]
    >>> judge = by_row({name: make_verifier(name) for name in ("string", "choice")})
    >>> [judgement.verdict.value for judgement in judge(rows, [r"\boxed{B}"] * 2)]
    ['wrong', 'right']
    """
    return RowVerifier(judges, choose or (lambda prompt: str(prompt.meta.get("verifier"))))


def _no_verifier(name: str) -> Judge:
    def judge(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Judgement]:
        return [Judgement(verdict=Verdict.UNJUDGED, reward=0.0, detail=f"no verifier {name!r}"[:120]) for _ in texts]

    return judge
