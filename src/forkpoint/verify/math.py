r"""Rewards for mathematical answers: the last `\boxed{}` compared with a reference.

A cheap exact comparison decides most answers in this process. The others go to math-verify in a
`forkpoint.verify.pool.VerifierPool`, whose processes start when the first such answer appears.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import TracebackType

from forkpoint.errors import InputError, did_you_mean
from forkpoint.rollouts import Judgement, Prompt, Verdict
from forkpoint.verify.exact import exactly_equal, over_cap
from forkpoint.verify.extract import EXTRACTIONS
from forkpoint.verify.pool import Outcome, VerifierPool
from forkpoint.verify.symbolic import compare, prepare

DETAIL_LENGTH = 120
"""Characters of an extracted answer that a judgement carries along."""


class MathJudge:
    """A verifier of mathematical answers: `judge(prompts, texts)`. Made by `math_judge`.

    It owns worker processes once it has needed them; `close` it or use it in a `with` block.
    """

    def __init__(self, *, extraction: str, gold_extraction: str, deadline: float, workers: int, cache: int) -> None:
        for name in (extraction, gold_extraction):
            if name not in EXTRACTIONS:
                raise InputError(f"unknown answer extraction {name!r}: {did_you_mean(name, EXTRACTIONS)}")
        if cache < 1:
            raise InputError(f"the verdict cache holds at least one verdict, not {cache}")
        self._extract, self._extract_gold = EXTRACTIONS[extraction], EXTRACTIONS[gold_extraction]
        self._missing = "no box" if extraction == "boxed" else "no answer"
        self._pool = VerifierPool(compare, workers=workers, deadline=deadline, prepare=prepare)
        self._cache: OrderedDict[tuple[str, str], Judgement] = OrderedDict()
        self._cache_size = cache

    def __call__(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Judgement]:
        """Return one judgement a row.

        Args:
            prompts: The problem of every row; `answer` is the reference.
            texts: What the model wrote, as many.

        Returns:
            Judgements in order: reward 1 for right, else 0; the verdict tells wrong from unjudged.
        """
        judgements: list[Judgement | None] = []
        open_rows: dict[tuple[str, str], list[int]] = {}
        for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            gold = self._extract_gold(prompt.answer) if prompt.answer else None
            answer = self._extract(text)
            judgement = decide(gold, answer, missing=self._missing)
            if judgement is None and gold is not None and answer is not None:
                judgement = self._cache.get((gold, answer))
                if judgement is None:
                    open_rows.setdefault((gold, answer), []).append(row)
            judgements.append(judgement)
        pairs = list(open_rows)
        outcomes = self._pool.map([{"gold": gold, "answer": answer} for gold, answer in pairs])
        for pair, outcome in zip(pairs, outcomes, strict=True):
            judgement = _from_outcome(outcome, pair[1])
            self._remember(pair, judgement)
            for row in open_rows[pair]:
                judgements[row] = judgement
        return [judgement for judgement in judgements if judgement is not None]

    def close(self) -> None:
        """End the worker processes; a later call starts new ones."""
        self._pool.close()

    def __enter__(self) -> MathJudge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _remember(self, pair: tuple[str, str], judgement: Judgement) -> None:
        self._cache[pair] = judgement
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)


def math_judge(
    *,
    extraction: str = "boxed",
    gold_extraction: str = "auto",
    deadline: float = 5.0,
    workers: int = 2,
    cache: int = 65_536,
) -> MathJudge:
    r"""Return a verifier that compares mathematical answers with references.

    The verdict is `right`, `wrong`, or `unjudged` where the reference is missing, unreadable or over a cap,
    or the comparison missed its deadline. An answer without a box, or over a cap, is wrong. Equality is
    that of math-verify, with boxed answers only and malformed operators left malformed. Of several boxes
    the last counts, in an answer and in a reference.

    Args:
        extraction: Where the answer stands in a completion, a name in `EXTRACTIONS`. Keep `boxed` for
            rewards: the others are for recorded completions.
        gold_extraction: Where the answer stands in the reference; `auto` also reads whole solutions.
        deadline: Seconds for one comparison, in (0, inf).
        workers: Processes, started when first needed.
        cache: How many verdicts to keep, by (reference, answer).

    Returns:
        A callable `judge(prompts, texts) -> list[Judgement]` with `close()`.

    Raises:
        InputError: For an unknown extraction or a number out of range.

    >>> with math_judge() as judge:
    ...     rows = judge([Prompt(id="1", text="", answer="10{,}000")] * 2, [r"\boxed{10000}", "10000"])
    >>> [row.verdict.value for row in rows]
    ['right', 'wrong']
    """
    return MathJudge(
        extraction=extraction,
        gold_extraction=gold_extraction,
        deadline=deadline,
        workers=workers,
        cache=cache,
    )


def decide(gold: str | None, answer: str | None, *, missing: str = "no box") -> Judgement | None:
    r"""Return the judgement that needs no algebra, or None.

    Args:
        gold: The extracted reference, None where there is none.
        answer: The extracted answer, None where there is none.
        missing: The detail for an answer that is not there.

    >>> decide("5", "5.0").verdict.value, decide("5", None).detail, decide("5", "9^{9^{9}}").detail
    ('right', 'no box', 'exponent over the cap')
    """
    if not gold:
        return _judgement(Verdict.UNJUDGED, "no reference answer")
    if not answer:
        return _judgement(Verdict.WRONG, missing if answer is None else "empty box")
    equal = exactly_equal(gold, answer)
    if equal is not None:
        return _judgement(Verdict.RIGHT if equal else Verdict.WRONG, answer)
    if cap := over_cap(gold):
        return _judgement(Verdict.UNJUDGED, f"reference {cap} over the cap")
    if cap := over_cap(answer):
        return _judgement(Verdict.WRONG, f"{cap} over the cap")
    return None


def _from_outcome(outcome: Outcome, answer: str) -> Judgement:
    """Return the judgement for what the pool reported."""
    if outcome.failure:
        return _judgement(Verdict.UNJUDGED, outcome.failure)
    reply: Mapping[str, str] = outcome.value
    return _judgement(Verdict(reply["verdict"]), reply["detail"] or answer)


def _judgement(verdict: Verdict, detail: str) -> Judgement:
    reward = 1.0 if verdict is Verdict.RIGHT else 0.0
    return Judgement(verdict=verdict, reward=reward, parts={"answer": reward}, detail=detail[:DETAIL_LENGTH])
