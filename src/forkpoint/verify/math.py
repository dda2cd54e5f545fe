r"""Rewards for mathematical answers: the last `\boxed{}` compared with a reference by a rule.

What text and exact numbers decide is decided in this process. The rest goes to math-verify in a
`forkpoint.verify.pool.VerifierPool`, whose processes start when the first such answer appears.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, NamedTuple

from forkpoint.errors import InputError, did_you_mean
from forkpoint.rollouts import Judgement, Prompt, Verdict
from forkpoint.verify.extract import EXTRACTIONS
from forkpoint.verify.pool import Outcome, VerifierPool
from forkpoint.verify.rules import KINDS, Rule, exact_leaf, find
from forkpoint.verify.symbolic import compare, prepare

DETAIL_LENGTH = 120
"""Characters of an extracted answer that a judgement carries along."""
SEARCHED = 10_000
"""Characters at the end of a text that a search looks at; the search is quadratic in them."""
DEFAULT_RULE = Rule()


@dataclass(frozen=True, kw_only=True)
class Search:
    """Settings of math-verify's own search through prose; see `forkpoint.verify.symbolic.searched`."""

    targets: tuple[str, ...] = ("latex", "expr")
    precision: int = 6
    strict: bool = True
    set_relations: bool = False


class _Pair(NamedTuple):
    """What one comparison by algebra depends on."""

    gold: str
    answer: str
    rule: Rule


RowRule = Callable[[Prompt], Rule | str]
"""A problem -> its rule, or a sentence that says why there is none; its answers are then not judged."""


class MathJudge:
    """A verifier of answers by rules: `judge(prompts, texts)`. Made by `math_judge`.

    It owns worker processes once it has needed them; `close` it or use it in a `with` block.
    """

    def __init__(
        self,
        *,
        extraction: str,
        gold_extraction: str,
        deadline: float,
        workers: int,
        cache: int,
        rule: Rule | RowRule,
        search: Search | None,
    ) -> None:
        for name in (extraction, gold_extraction):
            if name not in EXTRACTIONS:
                raise InputError(f"unknown answer extraction {name!r}: {did_you_mean(name, EXTRACTIONS)}")
        if isinstance(rule, Rule) and rule.kind not in KINDS:
            raise InputError(f"unknown kind of answer {rule.kind!r}: {did_you_mean(rule.kind, KINDS)}")
        if search is not None and not set(search.targets) <= {"latex", "expr"}:
            raise InputError(f"math-verify searches for 'latex' and 'expr', not for {', '.join(search.targets)}")
        if cache < 1:
            raise InputError(f"the verdict cache holds at least one verdict, not {cache}")
        self._extract, self._extract_gold = EXTRACTIONS[extraction], EXTRACTIONS[gold_extraction]
        self._missing = "no box" if extraction == "boxed" else "no answer"
        self._rule, self._search = rule, search
        self._pool = VerifierPool(compare, workers=workers, deadline=deadline, prepare=prepare)
        self._cache: OrderedDict[_Pair, Judgement] = OrderedDict()
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
        open_rows: dict[_Pair, list[int]] = {}
        for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            found = self._here(prompt, text)
            known = self._cache.get(found) if isinstance(found, _Pair) else found
            if known is None and isinstance(found, _Pair):
                open_rows.setdefault(found, []).append(row)
            judgements.append(known)
        outcomes = self._pool.map([self._item(pair) for pair in open_rows])
        for (pair, rows), outcome in zip(open_rows.items(), outcomes, strict=True):
            judgement = _from_outcome(outcome, pair.answer)
            self._remember(pair, judgement)
            for row in rows:
                judgements[row] = judgement
        return [judgement for judgement in judgements if judgement is not None]

    def _here(self, prompt: Prompt, text: str) -> Judgement | _Pair:
        """Return the judgement that needs no algebra, or what is to be compared by algebra."""
        rule = self._rule if isinstance(self._rule, Rule) else self._rule(prompt)
        if isinstance(rule, str):
            return _judgement(Verdict.UNJUDGED, rule)
        if self._search is not None:
            return _searchable(prompt.answer, text, rule)
        gold = self._extract_gold(prompt.answer) if prompt.answer else None
        answer = self._extract(text)
        judgement = decide(gold, answer, rule, missing=self._missing)
        return judgement or _Pair(gold=gold or "", answer=answer or "", rule=rule)

    def _item(self, pair: _Pair) -> dict[str, Any]:
        """Return what a worker compares."""
        how = {"rule": asdict(pair.rule)} if self._search is None else {"search": asdict(self._search)}
        return {"gold": pair.gold, "answer": pair.answer, **how}

    def close(self) -> None:
        """End the worker processes; a later call starts new ones."""
        self._pool.close()

    def __enter__(self) -> MathJudge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _remember(self, pair: _Pair, judgement: Judgement) -> None:
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
    rule: Rule | RowRule = DEFAULT_RULE,
    search: Search | None = None,
) -> MathJudge:
    r"""Return a verifier that compares mathematical answers with references.

    The verdict is `right`, `wrong`, or `unjudged` where the reference is missing, unreadable or over a cap, or the
    comparison missed its deadline. An answer without a box, or over a cap, is wrong. Of several boxes the last
    counts, in an answer and in a reference.

    Accepted: equal values however written (`\frac12`, `0.5`; decimals to six places), sets and lists in any order,
    a unit the reference leaves out, `x = 5` for 5. Refused: another unit or base, `(1,2)` for `\{1,2\}`, `2x = 5`
    for 5, an ellipsis, numbers side by side, what is equal only by rounding.

    Args:
        extraction: Where the answer stands in a completion, a name in `EXTRACTIONS`. Keep `boxed` for
            rewards: the others are for recorded completions.
        gold_extraction: Where the answer stands in the reference; `auto` also reads whole solutions.
        deadline: Seconds for one comparison, in (0, inf).
        workers: Processes, started when first needed.
        cache: How many verdicts to keep, by reference, answer and rule.
        rule: How answers are compared, or a function from a problem to its rule.
        search: Look for the answer in the prose of reference and completion as math-verify's own tests do, in
            place of both extractions and the rule. For recorded completions, never for rewards.

    Returns:
        A callable `judge(prompts, texts) -> list[Judgement]` with `close()`.

    Raises:
        InputError: For an unknown extraction or kind, or a number out of range.

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
        rule=rule,
        search=search,
    )


def decide(
    gold: str | None, answer: str | None, rule: Rule = DEFAULT_RULE, *, missing: str = "no box"
) -> Judgement | None:
    r"""Return the judgement that needs no algebra, or None.

    Args:
        gold: The extracted reference, None where there is none.
        answer: The extracted answer, None where there is none.
        rule: How they are compared.
        missing: The detail for an answer that is not there.

    >>> decide("5", "5.0").verdict.value, decide("5", None).detail, decide("5", "9^{9^{9}}").detail
    ('right', 'no box', 'exponent over the cap')
    """
    if not gold:
        return _judgement(Verdict.UNJUDGED, "no reference answer")
    if not answer:
        return _judgement(Verdict.WRONG, missing if answer is None else "empty box")
    found = find(gold, answer, rule, exact_leaf)
    return None if found.verdict == "open" else _judgement(Verdict(found.verdict), found.why or answer)


def _searchable(gold: str | None, text: str, rule: Rule) -> Judgement | _Pair:
    """Return two texts to be searched: the end of a long completion, where its answer stands."""
    if not gold or not gold.strip():
        return _judgement(Verdict.UNJUDGED, "no reference answer")
    return _Pair(gold=gold[-SEARCHED:], answer=text[-SEARCHED:], rule=rule)


def _from_outcome(outcome: Outcome, answer: str) -> Judgement:
    """Return the judgement for what the pool reported."""
    if outcome.failure:
        return _judgement(Verdict.UNJUDGED, outcome.failure)
    reply: Mapping[str, str] = outcome.value
    return _judgement(Verdict(reply["verdict"]), reply["detail"] or answer)


def _judgement(verdict: Verdict, detail: str) -> Judgement:
    reward = 1.0 if verdict is Verdict.RIGHT else 0.0
    return Judgement(verdict=verdict, reward=reward, parts={"answer": reward}, detail=detail[:DETAIL_LENGTH])
