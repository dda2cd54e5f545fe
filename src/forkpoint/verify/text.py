"""A verifier that compares answers as text: for tasks whose answers are words, letters or plain numbers."""

from __future__ import annotations

from collections.abc import Sequence

from forkpoint.errors import InputError, did_you_mean
from forkpoint.rollouts import Judgement, Prompt, Verdict
from forkpoint.tasks.task import Judge
from forkpoint.verify.exact import exactly_equal
from forkpoint.verify.extract import EXTRACTIONS


def exact_judge(*, extraction: str = "boxed") -> Judge:
    r"""Return a verifier that is right only where answer and reference agree without algebra.

    Spacing, `$`, `\text{…}` and thousands separators do not count; 5.0 equals 5.

    Args:
        extraction: where the answer stands, a name in `forkpoint.verify.extract.EXTRACTIONS`.

    Raises:
        InputError: an unknown extraction.

    >>> judge = exact_judge()
    >>> judge([Prompt(id="1", text="", answer="B")], [r"so \boxed{B}"])[0].verdict.value
    'right'
    """
    if extraction not in EXTRACTIONS:
        raise InputError(f"unknown answer extraction {extraction!r}: {did_you_mean(extraction, EXTRACTIONS)}")
    extract = EXTRACTIONS[extraction]

    def one(prompt: Prompt, text: str) -> Judgement:
        if not prompt.answer:
            return Judgement(verdict=Verdict.UNJUDGED, reward=0.0, detail="no reference")
        answer = extract(text)
        right = answer is not None and exactly_equal(prompt.answer, answer) is True
        verdict = Verdict.RIGHT if right else Verdict.WRONG
        return Judgement(verdict=verdict, reward=float(right), detail=answer or "no answer")

    def judge(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Judgement]:
        return [one(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]

    return judge
