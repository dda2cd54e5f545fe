"""One sampling, every metric: per problem first, then over problems.

Functions of flat arrays: `problem_N` says which of P problems an answer is to, `value_N` what it is worth (1 right,
0 wrong, NaN not judged and left out). Each returns one value a problem, NaN for a problem that has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from forkpoint.errors import InputError
from forkpoint.evaluate.graded import Floats, Graded, Ints
from forkpoint.evaluate.stats import Estimate, mean_estimate
from forkpoint.evaluate.voting import answer_entropy, best_of, majority_curve, means


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Everything one sampling says."""

    estimates: Mapping[str, Estimate]
    """By name: `avg@8`, `pass@1` to `pass@8`, `maj@8`, `best-of-8`, `format`, `truncated`, `length`, `entropy`, ..."""
    values: Mapping[str, Floats]
    """The same per problem, float (P,)."""
    answers: tuple[int, int]
    """Fewest and most judged answers of a judged problem; (0, 0) where nothing was judged."""
    unjudged: int
    """Answers without a verdict."""
    notes: tuple[str, ...]
    """What limits the numbers, one sentence each."""


def right_counts(problem_N: Ints, value_N: Floats, problems: int) -> tuple[Ints, Ints]:
    """Return judged and right answers of each problem.

    Raises:
        InputError: For a value that is neither 0, 1 nor NaN.
    """
    judged = ~np.isnan(value_N)
    if not np.isin(value_N[judged], (0.0, 1.0)).all():
        raise InputError("pass@k counts right answers, but there are values besides 0 and 1: use their mean instead")
    right = problem_N[judged & (value_N == 1)]
    return (
        np.bincount(problem_N[judged], minlength=problems).astype(np.int64),
        np.bincount(right, minlength=problems).astype(np.int64),
    )


def pass_curve(judged_P: Ints, right_P: Ints, most: int) -> Floats:
    r"""Return the unbiased estimate of pass@k for k = 1 to `most`, (P, most).

        pass@k = 1 - prod_{i=0}^{k-1} (n - c - i) / (n - i)

    Args:
        judged_P: n, judged answers of each problem.
        right_P: c, right ones.
        most: Largest k.

    Returns:
        One row a problem, NaN for one without judged answers.

    Raises:
        InputError: Where k exceeds the judged answers of a problem that has any.

    Source: Chen et al. 2021, arXiv 2107.03374, section 2.1; one k of one problem: `forkpoint.evaluate.passk`.

    >>> pass_curve(np.array([4]), np.array([1]), 4).tolist()
    [[0.25, 0.5, 0.75, 1.0]]
    """
    some = judged_P > 0
    fewest = int(judged_P[some].min()) if some.any() else 0
    if not 1 <= most <= fewest:
        raise InputError(
            f"pass@{most} cannot be estimated: a problem has {fewest} judged answers, and k must be in [1, {fewest}]"
        )
    found = np.full((len(judged_P), most), np.nan)
    n, wrong, i = judged_P[some, None], (judged_P - right_P)[some, None], np.arange(most)
    found[some] = 1.0 - np.cumprod(np.maximum(wrong - i, 0) / (n - i), axis=1)
    # 1 - wrong / n loses the last digits of right / n.
    found[some, 0] = right_P[some] / judged_P[some]
    return found


def summarise(
    answers: Graded, *, level: float = 0.95, interval: Literal["auto", "wilson", "student", "bootstrap"] = "auto"
) -> Metrics:
    """Return every metric that the answers allow, each with its interval over problems.

    Args:
        answers: What was graded. pass@k and maj@k need values of 0 and 1.
        level: Coverage of the intervals.
        interval: `auto`, or the same for all: see `stats.mean_estimate`. `bootstrap` is BCa over problems.

    Returns:
        pass@k for every k up to the fewest judged answers of a problem; maj@k for powers of two and n.
    """
    P, problem_N, value_N = len(answers.problems), answers.problem_N, answers.value_N
    judged = ~np.isnan(value_N)
    counts = np.bincount(problem_N[judged], minlength=P)
    some = counts[counts > 0]
    fewest, most = (int(some.min()), int(some.max())) if some.size else (0, 0)
    n = str(fewest) if fewest == most else f"{fewest}-{most}"
    values: dict[str, Floats] = {f"avg@{n}": means(problem_N, value_N, P)}
    binary = bool(np.isin(value_N[judged], (0.0, 1.0)).all())
    if binary and fewest:
        curve = pass_curve(*right_counts(problem_N, value_N, P), fewest)
        values |= {f"pass@{k}": curve[:, k - 1] for k in range(1, fewest + 1)}
    values |= _of_classes(answers, P)
    if answers.score_N is not None:
        values[f"best-of-{n}"] = best_of(problem_N, answers.score_N, value_N, P)
    for name, column in (
        ("format", answers.format_N), ("truncated", answers.truncated_N), ("length", answers.length_N),
    ):  # fmt: skip
        if column is not None:
            values[name] = means(problem_N, column, P)
    if answers.entropy_N is not None and answers.length_N is not None:
        tokens = means(problem_N, answers.length_N, P)
        label = "entropy, at least" if answers.entropy_bound else "entropy"
        entropy = means(problem_N, answers.entropy_N, P)
        values[label] = np.divide(entropy, tokens, out=np.full(P, np.nan), where=tokens > 0)
    size = int(judged.sum())
    return Metrics(
        estimates={
            name: mean_estimate(column, samples=size, level=level, interval=_suited(interval, column))
            for name, column in values.items()
        },
        values=values,
        answers=(fewest, most),
        unjudged=len(value_N) - size,
        notes=_limits(answers, fewest, most, binary),
    )


def _of_classes(answers: Graded, problems: int) -> dict[str, Floats]:
    """Return maj@k and the answer entropy, where classes are known."""
    if answers.class_N is None:
        return {}
    count = np.bincount(answers.problem_N, minlength=problems)
    fewest = int(count[count > 0].min())
    wanted = sorted({*(1 << e for e in range(1, fewest.bit_length())), fewest} - {1})
    curve = majority_curve(answers.problem_N, answers.class_N, answers.value_N, problems, wanted or None)
    found = {f"maj@{k}": curve[:, place] for place, k in enumerate(wanted)}
    return {**found, "answer entropy": answer_entropy(answers.problem_N, answers.class_N, problems)}


def _suited(
    interval: Literal["auto", "wilson", "student", "bootstrap"], column: Floats
) -> Literal["auto", "wilson", "student", "bootstrap"]:
    """Wilson's interval is for shares: lengths and entropies keep the automatic one."""
    shares = bool(((column >= 0) & (column <= 1))[~np.isnan(column)].all())
    return "auto" if interval == "wilson" and not shares else interval


def _limits(answers: Graded, fewest: int, most: int, binary: bool) -> tuple[str, ...]:
    notes = list(answers.notes)
    unjudged = int(np.isnan(answers.value_N).sum())
    if unjudged:
        notes.append(
            f"{unjudged} of {len(answers.value_N)} answers of {answers.name} were not judged and are left out."
        )
    if fewest != most:
        notes.append(
            f"Problems of {answers.name} have {fewest} to {most} judged answers: pass@k is given up to k = {fewest}, "
            "and every problem weighs the same."
        )
    if not binary:
        notes.append(f"Values of {answers.name} are not all 0 or 1, so there is no pass@k.")
    return tuple(notes)
