r"""Rewards for programs: what a model wrote is run against the tests of its row, in a sandbox.

    text -> program (`forkpoint.verify.code_text`) -> trials (`forkpoint.verify.code_rows`) -> `forkpoint.sandbox.Pool`

An answer is right when every test passes. It is not judged where its row holds no tests or the sandbox fails; the
reason stands in the detail. Nothing a model writes raises, and every trial has a deadline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from forkpoint.errors import InputError, did_you_mean
from forkpoint.rollouts import Judgement, Prompt, Verdict
from forkpoint.sandbox import Limits, Outcome, Trial
from forkpoint.verify.code_case import OUTPUT_BYTES, Case, NoTests, Reading, fields_of
from forkpoint.verify.code_pool import Sandboxed
from forkpoint.verify.code_rows import STYLES, style_of
from forkpoint.verify.code_stdio import printed
from forkpoint.verify.code_text import unusable

DETAIL_LENGTH = 120
"""Characters of a reason that a judgement carries along."""


@dataclass(kw_only=True)
class _Work:
    """One answer under test."""

    cases: Sequence[Case] = ()
    done: int = 0
    passed: int = 0
    why: str = ""
    """Why the first test failed."""
    unjudged: str = ""
    waiting: list[Case] = field(default_factory=list)


class CodeJudge(Sandboxed):
    """A verifier of programs by tests: `judge(prompts, texts)`. Made by `code_judge`.

    `close` it or use it in a `with` block.
    """

    def __init__(self, *, style: str, reading: Reading, workers: int, limits: Limits) -> None:
        super().__init__(workers=workers, limits=limits)
        self._style, self._reading = style, reading

    def __call__(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Judgement]:
        """Return one judgement a text.

        Args:
            prompts: Problems with the fields of their style in `meta`, in `meta["extra_info"]` or as JSON in `answer`.
            texts: The model's answers, of any content.

        Returns:
            Right with reward 1 where every test passes, else wrong, with the reason in `detail`; unjudged where there
            are no tests or the sandbox failed. With `partial`, a wrong answer's reward is its share of tests passed.
        """
        work = [self._planned(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
        try:
            self._run(work)
        except Exception as error:  # a verifier never raises into the loop
            for one in work:
                if one.done < len(one.cases):
                    one.unjudged = one.unjudged or f"sandbox: {type(error).__name__}: {error}"
        return [self._judged(one) for one in work]

    def unreadable(self, prompts: Sequence[Prompt]) -> list[tuple[str, str]]:
        """Return the problems that cannot be judged: id and why. Nothing is run."""
        found = ((prompt.id, self._planned(prompt, "pass").unjudged) for prompt in prompts)
        return [(name, why) for name, why in found if why]

    def _planned(self, prompt: Prompt, text: str) -> _Work:
        try:
            row = fields_of(prompt)
            style = style_of(row) if self._style == "auto" else self._style
            cases = STYLES[style](row, text, self._reading)
        except NoTests as error:
            return _Work(unjudged=f"no tests: {error}")
        except Exception as error:  # a row of another shape than its style says
            return _Work(unjudged=f"row: {type(error).__name__}: {error}")
        if not cases:
            return _Work(unjudged="no tests")
        why = "no program" if not text.strip() else unusable(cases[0].trial.program)
        return _Work(cases=() if why else cases, why=why)

    def _run(self, work: Sequence[_Work]) -> None:
        """Run the tests of all answers, in waves that double: who failed one test is not run on the next ones."""
        wave = 1
        while pending := [one for one in work if one.done < len(one.cases) and self._open(one)]:
            for one in pending:
                one.waiting = list(one.cases[one.done : one.done + wave])
            outcomes = self._outcomes([case.trial for one in pending for case in one.waiting])
            for one in pending:
                for case in one.waiting:
                    self._count(one, case, outcomes[case.trial])
            wave *= 2

    def _open(self, one: _Work) -> bool:
        return not one.unjudged and (self._reading.separate or not one.why)

    def _outcomes(self, trials: Sequence[Trial]) -> dict[Trial, Outcome]:
        """Return trial -> outcome; equal trials, as of equal answers to one problem, run once."""
        different = list(dict.fromkeys(trials))
        return dict(zip(different, self.opened().map(different), strict=True))

    def _count(self, one: _Work, case: Case, outcome: Outcome) -> None:
        one.done += 1
        if not outcome.ran:
            one.unjudged = one.unjudged or f"sandbox: {outcome.reason}"
        elif not outcome.passed:
            one.why = one.why or outcome.reason or "failed"
        elif case.stdout is not None and not printed(outcome.stdout, case.stdout, tolerance=self._reading.tolerance):
            one.why = one.why or f"test {one.done}: printed something else"
        else:
            one.passed += 1

    def _judged(self, one: _Work) -> Judgement:
        if one.unjudged:
            return Judgement(verdict=Verdict.UNJUDGED, reward=0.0, detail=one.unjudged[:DETAIL_LENGTH])
        if one.why or one.passed < len(one.cases):
            share = one.passed / len(one.cases) if one.cases and self._reading.separate else 0.0
            return Judgement(verdict=Verdict.WRONG, reward=share, detail=one.why[:DETAIL_LENGTH])
        return Judgement(verdict=Verdict.RIGHT, reward=1.0, detail=f"{len(one.cases)} passed")


def limits_of(*, deadline: float, cpu_s: float, memory_mb: int, **more: Any) -> Limits:
    """Return the limits of one trial.

    Raises:
        InputError: A limit is not positive.
    """
    for name, value in (("deadline", deadline), ("cpu_s", cpu_s), ("memory_mb", memory_mb)):
        if not value > 0:
            raise InputError(f"{name} = {value} leaves a program nothing: give a positive number")
    return Limits(cpu_s=cpu_s, wall_s=deadline, memory_bytes=memory_mb << 20, **more)


def code_judge(
    *,
    style: str = "auto",
    deadline: float = 8.0,
    cpu_s: float = 3.0,
    memory_mb: int = 512,
    workers: int = 2,
    partial: bool = False,
    stops: bool = False,
    tolerance: float = 0.0,
) -> CodeJudge:
    """Return the verifier that runs programs against the tests of their rows.

    Args:
        style: How rows state their tests: a name in `forkpoint.verify.code_rows.STYLES`, or `auto`, by their fields.
        deadline: Wall-clock seconds of one trial, > 0.
        cpu_s: CPU seconds of one trial, > 0.
        memory_mb: Memory of one trial in MiB, > 0.
        workers: Trials at a time, >= 1.
        partial: Give a wrong answer its share of tests passed, in [0, 1), as reward, where tests can be told apart
            (`asserts`, `stdio`). Verdicts stay all or nothing.
        stops: End continuations of a prompt at the stop sequences of HumanEval; for base models.
        tolerance: How far numbers that are printed or returned may be off, where rows do not say, >= 0.

    Raises:
        InputError: An unknown style or a value out of range.

    >>> code_judge(style="humanevil")
    Traceback (most recent call last):
    forkpoint.errors.InputError: unknown style of tests 'humanevil': did you mean 'humaneval'?
    """
    if style not in STYLES and style != "auto":
        raise InputError(f"unknown style of tests {style!r}: {did_you_mean(style, [*STYLES, 'auto'])}")
    if workers < 1 or not tolerance >= 0:
        raise InputError(f"workers = {workers} and tolerance = {tolerance}: give at least 1 and at least 0")
    limits = limits_of(deadline=deadline, cpu_s=cpu_s, memory_mb=memory_mb, output_bytes=OUTPUT_BYTES)
    reading = Reading(stops=stops, separate=partial, tolerance=tolerance)
    return CodeJudge(style=style, reading=reading, workers=workers, limits=limits)
