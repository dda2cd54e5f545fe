"""The final answers of texts, and which of them a verifier calls equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from forkpoint.rollouts import Prompt, Verdict
from forkpoint.verify.exact import exactly_equal, over_cap
from forkpoint.verify.extract import EXTRACTIONS
from forkpoint.verify.math import math_judge

MARKED = ("boxed", "gsm8k", "a-line")
"""Conventions in which an answer is marked, the first of several equally frequent ones counts."""
MOST_SYMBOLIC = 200
"""Pairs compared by algebra; each may take up to a second."""
_MOST_FAILURES = 3


@dataclass(frozen=True, kw_only=True)
class FinalAnswers:
    """The final answer of every text."""

    answers: tuple[str | None, ...]
    """None where there is none."""
    convention: str
    """A name in `forkpoint.verify.extract.EXTRACTIONS`."""


def final_answers(texts: Sequence[str | None], whole: Sequence[bool] | None = None) -> FinalAnswers:
    r"""Return the final answers of texts, all read under one convention.

    That is the marked one (`\boxed{}`, `####`, a line `A:`) in which most texts have an answer, and the last number
    of a text where none is marked anywhere.

    Args:
        texts: what was written; None has no answer.
        whole: whether each text ended by itself; the last number of one that was cut is no answer.

    >>> final_answers([r"so \boxed{4}", "4 or 5", None]).answers
    ('4', None, None)
    >>> final_answers(["1 + 2 = 3 stop", "1 + 1 ="], whole=[True, False])
    FinalAnswers(answers=('3', None), convention='number')
    """
    found = {name: [None if text is None else EXTRACTIONS[name](text) for text in texts] for name in MARKED}
    best = max(MARKED, key=lambda name: sum(answer is not None for answer in found[name]))
    if any(answer is not None for answer in found[best]):
        return FinalAnswers(answers=tuple(answer or None for answer in found[best]), convention=best)
    ended = [True] * len(texts) if whole is None else whole
    numbers = (EXTRACTIONS["number"](text) if text and end else None for text, end in zip(texts, ended, strict=True))
    return FinalAnswers(answers=tuple(numbers), convention="number")


class Equality:
    """Whether two answers are equal, by exact comparison, and by algebra where that is open; use in a `with` block.

    It owns the worker processes of the algebra, which start when first needed. After `most` pairs, or a few that
    missed their deadline, open pairs count as different; `given_up` counts them.
    """

    def __init__(self, most: int = MOST_SYMBOLIC) -> None:
        self.given_up = 0
        self._left, self._failures = most, 0
        self._known: dict[tuple[str, str], bool] = {}
        self._judge = math_judge(extraction="whole", gold_extraction="whole", deadline=1.0, workers=1)

    def __enter__(self) -> Equality:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._judge.close()

    def __call__(self, one: str, other: str) -> bool:
        """Return the verdict; the order of the two does not matter."""
        pair = (min(one, other), max(one, other))
        if pair not in self._known:
            equal = exactly_equal(*pair)
            self._known[pair] = self._by_algebra(*pair) if equal is None else equal
        return self._known[pair]

    def _by_algebra(self, one: str, other: str) -> bool:
        if over_cap(one) or over_cap(other):
            return False
        if self._left <= 0 or self._failures >= _MOST_FAILURES:
            self.given_up += 1
            return False
        self._left -= 1
        verdict = self._judge([Prompt(id="", text="", answer=one)], [other])[0].verdict
        if verdict is Verdict.UNJUDGED:
            self._failures += 1
            self.given_up += 1
        return verdict is Verdict.RIGHT
