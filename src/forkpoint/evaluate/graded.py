"""Graded answers as flat arrays: what every metric and every comparison starts from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forkpoint.errors import InputError
from forkpoint.evaluate.spec import EvalSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Graded:
    """N graded answers to P problems. What was not recorded is None."""

    name: str
    """What a table calls it."""
    problems: tuple[Hashable, ...]
    """Id of every problem, in order of appearance."""
    problem_N: Ints
    """Which problem an answer is to."""
    value_N: Floats
    """1 right, 0 wrong, NaN not judged, or any score."""
    length_N: Floats | None = None
    """Tokens of the answer."""
    truncated_N: Floats | None = None
    """1 where the answer hit the limit."""
    format_N: Floats | None = None
    """1 where the answer had the required form."""
    class_N: Ints | None = None
    """Answers of one problem with the same number are verified to be equal; -1 is no answer."""
    score_N: Floats | None = None
    """What another model thinks of the answer, for best-of-n."""
    entropy_N: Floats | None = None
    """Sum of the token entropies of the answer, nats."""
    entropy_bound: bool = False
    """Entropies are lower bounds."""
    spec: EvalSpec | None = None
    notes: tuple[str, ...] = ()
    """What a reader of the result has to know, one sentence each."""

    def __post_init__(self) -> None:
        size = len(self.problem_N)
        if size == 0:
            raise InputError(f"{self.name} holds no answer: there is nothing to evaluate")
        for name in ("value_N", "length_N", "truncated_N", "format_N", "class_N", "score_N", "entropy_N"):
            column = getattr(self, name)
            if column is not None and len(column) != size:
                raise InputError(f"{self.name}: {name} has {len(column)} rows for {size} answers")
        if np.isinf(self.value_N).any():
            raise InputError(f"{self.name} has an infinite value: grade answers with finite numbers")


def graded(
    name: str,
    problems: Sequence[Hashable],
    values: ArrayLike,
    *,
    sample: Sequence[int] | None = None,
    length: ArrayLike | None = None,
    truncated: ArrayLike | None = None,
    format: ArrayLike | None = None,
    answer_class: ArrayLike | None = None,
    score: ArrayLike | None = None,
    entropy: ArrayLike | None = None,
    entropy_bound: bool = False,
    spec: EvalSpec | None = None,
    notes: Sequence[str] = (),
) -> Graded:
    """Return answers as arrays, checked.

    Args:
        name: What a table calls it.
        problems: The problem of every answer; None or an empty text is an error.
        values: float (N,): 1 right, 0 wrong, NaN not judged, or any score.
        sample: Number of every answer among those to its problem; one that comes twice is an error.
        length: float (N,): tokens.
        truncated: float (N,): 1 where the answer hit the limit.
        format: float (N,): 1 where the answer had the required form.
        answer_class: int (N,), see `equality_classes`.
        score: float (N,).
        entropy: float (N,): sum of token entropies, nats.
        entropy_bound: They are lower bounds.
        spec: Conditions of the evaluation.
        notes: Kept.

    Raises:
        InputError: Where there is no answer, an id is missing, a sample comes twice, or lengths differ.

    >>> found = graded("a", ["x", "y", "x"], [1, 0, float("nan")])
    >>> found.problems, found.problem_N.tolist()
    (('x', 'y'), [0, 1, 0])
    """
    missing = next((row for row, problem in enumerate(problems) if problem is None or problem == ""), None)
    if missing is not None:
        raise InputError(f"answer {missing + 1} of {name} has no problem id: give every answer the id of its problem")
    if len(problems) != np.size(values):
        raise InputError(f"{name}: {len(problems)} problem ids do not match {np.size(values)} values")
    if sample is not None and len(sample) != len(problems):
        raise InputError(f"{name}: {len(sample)} sample numbers do not match {len(problems)} problem ids")
    if sample is not None:
        _no_twins(name, problems, sample)
    places = {problem: place for place, problem in enumerate(dict.fromkeys(problems))}

    def column(given: ArrayLike | None) -> Floats | None:
        return None if given is None else np.asarray(given, np.float64)

    return Graded(
        name=name,
        problems=tuple(places),
        problem_N=np.fromiter((places[problem] for problem in problems), np.int64, len(problems)),
        value_N=np.asarray(values, np.float64),
        length_N=column(length),
        truncated_N=column(truncated),
        format_N=column(format),
        class_N=None if answer_class is None else np.asarray(answer_class, np.int64),
        score_N=column(score),
        entropy_N=column(entropy),
        entropy_bound=entropy_bound,
        spec=spec,
        notes=tuple(notes),
    )


def equality_classes(
    problems: Sequence[Hashable], answers: Sequence[str | None], equal: Callable[[str, str], bool | None]
) -> Ints:
    """Return a number for every answer, the same for answers to one problem that are verified to be equal.

    Equal texts are equal. Another text joins the first class whose first member it is verified to equal, so there
    are at most (different texts) x (classes) calls a problem.

    Args:
        problems: The problem of every answer.
        answers: What was extracted from it; None or an empty text is no answer and gets -1.
        equal: `equal(first, answer)`: True where two texts are the same answer; False and None keep them apart.

    >>> equality_classes(["p", "p", "p", "q"], ["1/2", "0.5", None, "0.5"], lambda a, b: {a, b} == {"1/2", "0.5"})
    array([ 0,  0, -1,  0])
    """
    seen: dict[Hashable, dict[str, int]] = {}
    first: dict[Hashable, list[str]] = {}
    found = np.full(len(answers), -1, np.int64)
    for row, (problem, answer) in enumerate(zip(problems, answers, strict=True)):
        if not answer:
            continue
        known, members = seen.setdefault(problem, {}), first.setdefault(problem, [])
        if answer not in known:
            place = next((number for number, member in enumerate(members) if equal(member, answer)), len(members))
            if place == len(members):
                members.append(answer)
            known[answer] = place
        found[row] = known[answer]
    return found


def _no_twins(name: str, problems: Sequence[Hashable], sample: Sequence[int]) -> None:
    seen: set[tuple[Hashable, int]] = set()
    for pair in zip(problems, sample, strict=True):
        if pair in seen:
            raise InputError(
                f"{name} has sample {pair[1]} of problem {pair[0]!r} twice: number the answers to a problem, or "
                "remove what was written twice"
            )
        seen.add(pair)
