r"""Rewards for reading programs, as in CRUXEval (arXiv 2401.03065): what does f return, what makes f return this?

An output is compared as a literal in this process. Where one side is no literal but an expression that puts values
together, both are evaluated in the sandbox, without the row's code: an answer cannot call what it was asked about. An
input is always tried, by running the row's code on it in the sandbox.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from forkpoint.errors import InputError, did_you_mean
from forkpoint.rollouts import Judgement, Prompt, Verdict
from forkpoint.sandbox import Limits, Trial
from forkpoint.verify.code import DETAIL_LENGTH, limits_of
from forkpoint.verify.code_case import fields_of
from forkpoint.verify.code_pool import Sandboxed
from forkpoint.verify.code_text import code_of, unusable
from forkpoint.verify.code_values import IMPORTS, LONGEST, argument_list, literal, spellings, value_expression
from forkpoint.verify.extract import EXTRACTIONS

ANSWER = "answer__"
_TAGS = re.compile(r"\[ANSWER\](.*?)(?:\[/ANSWER\]|\Z)", re.DOTALL)
_CLASSES = re.compile(r"^class\s+(\w+)", re.MULTILINE)
_HELD = re.compile(r"^(\w+)\s*=[^=]", re.MULTILINE)


def tagged(text: str) -> str | None:
    """Return what the last `[ANSWER]` holds; of an assertion in it the side that was asked for stays to be cut out.

    >>> tagged("[ANSWER]assert f(1) == 2[/ANSWER]")
    'assert f(1) == 2'
    """
    found = _TAGS.findall(text)
    return (found[-1].strip() or None) if found else None


def _fence(text: str) -> str | None:
    return code_of(text).strip() or None


READINGS: Mapping[str, Callable[[str], str | None]] = {**EXTRACTIONS, "tags": tagged, "fence": _fence}
"""Name of a convention -> function from a text to its answer, or None where there is none."""


class OutputJudge(Sandboxed):
    """A verifier of predicted outputs or inputs: `judge(prompts, texts)`. Made by `output_judge`.

    `close` it or use it in a `with` block.
    """

    def __init__(self, *, predict: str, extraction: str, workers: int, limits: Limits) -> None:
        super().__init__(workers=workers, limits=limits)
        self._predict, self._extract = predict, READINGS[extraction]

    def __call__(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Judgement]:
        """Return one judgement a text.

        Args:
            prompts: Problems whose `answer` is the output, as Python; where inputs are predicted, `code` in `meta`.
            texts: The model's answers, of any content.
        """
        found: list[Judgement | Trial] = []
        for prompt, text in zip(prompts, texts, strict=True):
            try:
                found.append(self._decided(prompt, text))
            except Exception as error:  # a verifier never raises into the loop
                found.append(_unjudged(f"row: {type(error).__name__}: {error}"))
        trials = list(dict.fromkeys(one for one in found if isinstance(one, Trial)))
        tried = dict(zip(trials, self._tried(trials), strict=True))
        return [tried[one] if isinstance(one, Trial) else one for one in found]

    def unreadable(self, prompts: Sequence[Prompt]) -> list[tuple[str, str]]:
        """Return the problems that cannot be judged: id and why. Nothing is run."""
        found = ((prompt.id, self._missing(prompt)) for prompt in prompts)
        return [(name, why) for name, why in found if why]

    def _missing(self, prompt: Prompt) -> str:
        if not prompt.answer or not prompt.answer.strip():
            return "no reference"
        if literal(prompt.answer) is None and not value_expression(prompt.answer):
            return "the reference is no value"
        if self._predict == "input" and not str(fields_of(prompt).get("code") or "").strip():
            return "no code"
        return ""

    def _decided(self, prompt: Prompt, text: str) -> Judgement | Trial:
        """Return the judgement, or the trial that decides."""
        if missing := self._missing(prompt):
            return _unjudged(missing)
        answer = self._extract(text)
        if answer is None:
            return _wrong("no answer")
        if len(answer) > LONGEST:
            return _wrong(f"longer than {LONGEST:,} characters")
        gold = str(prompt.answer)
        if self._predict == "input":
            return self._input_trial(str(fields_of(prompt)["code"]), answer, gold)
        return _output(answer, gold)

    def _input_trial(self, code: str, answer: str, gold: str) -> Judgement | Trial:
        names, classes = set(_HELD.findall(code)) - {"f"}, set(_CLASSES.findall(code)) - {"f"}
        for spelling in spellings(_of_call(answer)):
            if argument_list(spelling, names, classes):
                program = f"{code}\n\ndef {ANSWER}():\n    return f({spelling}\n)\n"
                return _trial(program, gold)
        return _wrong(f"no arguments: {answer}")

    def _tried(self, trials: Sequence[Trial]) -> list[Judgement]:
        if not trials:
            return []
        try:
            outcomes = list(self.opened().map(trials))
        except Exception as error:  # a verifier never raises into the loop
            return [_unjudged(f"sandbox: {type(error).__name__}: {error}")] * len(trials)
        return [
            _unjudged(f"sandbox: {one.reason}") if not one.ran else _right() if one.passed else _wrong(one.reason)
            for one in outcomes
        ]


def _output(answer: str, gold: str) -> Judgement | Trial:
    """Return whether two values are equal, or the trial that decides where one of them is no literal."""
    expected, written = literal(gold), spellings(_of_assertion(answer))
    values = [value for value in map(literal, written) if value is not None]
    if values and expected is not None:
        return _right() if expected in values else _wrong(answer)
    for spelling in written:
        if value_expression(spelling):
            return _trial(f"{IMPORTS}\ndef {ANSWER}():\n    return ({spelling}\n)\n", gold)
    return _wrong(f"no value: {answer}")


def _trial(program: str, gold: str) -> Judgement | Trial:
    if why := unusable(program):
        return _wrong(why)
    judge = f"{IMPORTS}assert candidate() == ({gold}\n), 'another value'\n"
    return Trial(program=program, judge=judge, entry=ANSWER)


def _of_assertion(answer: str) -> str:
    """Return the right side of `assert f(...) == value`, and every other answer as it is."""
    return answer.rpartition("==")[2].strip() if answer.lstrip().startswith("assert ") else answer


def _of_call(answer: str) -> str:
    """Return what stands between the brackets of `f(...)` or `assert f(...) == value`."""
    text = answer.strip().removeprefix("assert ").strip()
    text = text.rpartition("==")[0].strip() if answer.lstrip().startswith("assert ") else text
    return text[2:-1] if text.startswith("f(") and text.endswith(")") else text


def _right() -> Judgement:
    return Judgement(verdict=Verdict.RIGHT, reward=1.0)


def _wrong(why: str) -> Judgement:
    return Judgement(verdict=Verdict.WRONG, reward=0.0, detail=why[:DETAIL_LENGTH])


def _unjudged(why: str) -> Judgement:
    return Judgement(verdict=Verdict.UNJUDGED, reward=0.0, detail=why[:DETAIL_LENGTH])


def output_judge(
    *,
    extraction: str = "boxed",
    predict: str = "output",
    deadline: float = 8.0,
    cpu_s: float = 3.0,
    memory_mb: int = 512,
    workers: int = 2,
) -> OutputJudge:
    r"""Return the verifier of predicted outputs, or of inputs that lead to an output.

    Args:
        extraction: Where the answer stands: a name in `READINGS`.
        predict: `output`, or `input`, which needs the row's `code`.
        deadline: Wall-clock seconds of one trial, > 0.
        cpu_s: CPU seconds of one trial, > 0.
        memory_mb: Memory of one trial in MiB, > 0.
        workers: Trials at a time, >= 1.

    Raises:
        InputError: An unknown name or a value out of range.

    >>> judge = output_judge()
    >>> rows = [Prompt(id="1", text="", answer="[(4, 1)]")] * 2
    >>> [one.verdict.value for one in judge(rows, [r"so \boxed{[(4,1)]}", r"\boxed{[4, 1]}"])]
    ['right', 'wrong']
    """
    if extraction not in READINGS:
        raise InputError(f"unknown answer extraction {extraction!r}: {did_you_mean(extraction, READINGS)}")
    if predict not in ("output", "input"):
        raise InputError(f"predict = {predict!r} is neither 'output' nor 'input'")
    if workers < 1:
        raise InputError(f"workers = {workers}: give at least 1")
    limits = limits_of(deadline=deadline, cpu_s=cpu_s, memory_mb=memory_mb)
    return OutputJudge(predict=predict, extraction=extraction, workers=workers, limits=limits)
