"""What several answers to one problem give together: their mean, their majority, their best, their disagreement.

Functions of flat arrays: `problem_N` says which of P problems an answer is to, `value_N` what it is worth (1 right,
0 wrong, NaN not judged and left out). Each returns one value a problem, NaN for a problem that has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from forkpoint.errors import InputError
from forkpoint.evaluate.graded import Floats, Ints

MAJORITY_DRAWS = 64
"""Subsets of k answers over which maj@k below n is averaged."""


def means(problem_N: Ints, value_N: Floats, problems: int) -> Floats:
    """Return the mean value of each problem's answers: avg@n, and any rate.

    >>> means(np.array([0, 0, 1]), np.array([1.0, 0.0, np.nan]), 2)
    array([0.5, nan])
    """
    judged = ~np.isnan(value_N)
    count = np.bincount(problem_N[judged], minlength=problems)
    total = np.bincount(problem_N[judged], value_N[judged], minlength=problems)
    return np.divide(total, count, out=np.full(problems, np.nan), where=count > 0)


def majority(
    problem_N: Ints,
    class_N: Ints,
    value_N: Floats,
    problems: int,
    *,
    k: int | None = None,
    ties: Literal["share", "first"] = "share",
    draws: int = MAJORITY_DRAWS,
    seed: int = 0,
) -> Floats:
    r"""Return maj@k: the value of the answer that most of k answers agree on.

    Votes are counted by classes of verified equality. Classes with equally many votes share the result (`share`, the
    expectation of a draw among them), or the one that was given first wins (`first`, which depends on the order of
    the answers). Answers without a class do not vote; where nobody votes the value is 0. A
    class is worth the mean of its judged members; a class without any is worth nothing known: NaN.

    Args:
        problem_N: int (N,).
        class_N: int (N,), -1 for no answer; see `graded.equality_classes`.
        value_N: float (N,).
        problems: P.
        k: Answers that vote; None takes all. Below n the mean over `draws` random subsets of k.
        ties: `share` or `first`.
        draws: Subsets.
        seed: Of the subsets.

    Raises:
        InputError: Where a problem has fewer than k answers.

    Source: self-consistency, arXiv 2203.11171.

    >>> one = np.zeros(4, int)
    >>> majority(one, np.array([0, 0, 1, 1]), np.array([1.0, 1, 0, 0]), 1)
    array([0.5])
    """
    ks = None if k is None else [k]
    return majority_curve(problem_N, class_N, value_N, problems, ks, ties=ties, draws=draws, seed=seed)[:, 0]


def majority_curve(
    problem_N: Ints,
    class_N: Ints,
    value_N: Floats,
    problems: int,
    ks: Sequence[int] | None,
    *,
    ties: Literal["share", "first"] = "share",
    draws: int = MAJORITY_DRAWS,
    seed: int = 0,
) -> Floats:
    """Return maj@k for several k, (P, len(ks)), all from the same random subsets; see `majority`.

    >>> majority_curve(np.zeros(3, int), np.array([0, 0, 1]), np.array([1.0, 1.0, 0.0]), 1, [3]).tolist()
    [[1.0]]
    """
    if ties not in ("share", "first"):
        raise InputError(f"unknown rule for ties {ties!r}: 'share' or 'first'")
    count = np.bincount(problem_N, minlength=problems)
    asked = count[count > 0]
    for k in ks or ():
        if not 1 <= k <= asked.min():
            raise InputError(f"maj@{k} needs k answers a problem: a problem has {asked.min()}")
    width = int(class_N.max(initial=-1)) + 1
    cell_N, has = problem_N * max(width, 1) + class_N, class_N >= 0
    # What a class is worth does not depend on which of its members were drawn.
    worth = means(cell_N[has], value_N[has], problems * width).reshape(problems, width)

    def vote(voting: NDArray[np.bool_]) -> Floats:
        return np.where(count > 0, _winners(cell_N, voting & has, worth, ties), np.nan)

    found = [vote(has)] * len(ks or (0,))
    some = [place for place, k in enumerate(ks or ()) if (asked != k).any()]
    if not some or ks is None:
        return np.stack(found, axis=1)
    rng = np.random.default_rng(seed)
    rank = np.empty(len(problem_N), np.int64)
    totals = np.zeros((problems, len(ks)))
    for _ in range(draws):
        # Keys stay below the next problem even after rounding.
        order = np.argsort(problem_N + 0.999 * rng.random(len(problem_N)))
        rank[order] = np.arange(len(problem_N)) - np.repeat(np.cumsum(count) - count, count)
        for place in some:
            totals[:, place] += vote(rank < ks[place])
    for place in some:
        found[place] = totals[:, place] / draws
    return np.stack(found, axis=1)


def best_of(problem_N: Ints, score_N: Floats, value_N: Floats, problems: int) -> Floats:
    """Return best-of-n: the value of the answer with the highest score; equal scores share the result.

    Answers without a score do not compete; where the winner was not judged, or nobody competes, it is NaN.

    >>> best_of(np.array([0, 0, 0]), np.array([2.0, 2.0, 1.0]), np.array([1.0, 0.0, 0.0]), 1)
    array([0.5])
    """
    top = np.full(problems, -np.inf)
    np.fmax.at(top, problem_N, score_N)
    winner = score_N == top[problem_N]
    count = np.bincount(problem_N[winner], minlength=problems)
    total = np.bincount(problem_N[winner], value_N[winner], minlength=problems)
    return np.divide(total, count, out=np.full(problems, np.nan), where=count > 0)


def answer_entropy(problem_N: Ints, class_N: Ints, problems: int) -> Floats:
    r"""Return the entropy of each problem's answers over classes of equal ones, -sum_c q_c log q_c in nats.

    Answers without a class are one class of their own each problem. It is the plug-in estimate, low for few answers.

    Source: semantic entropy with exact classes, arXiv 2302.09664.

    >>> answer_entropy(np.zeros(4, int), np.array([0, 0, 1, 1]), 1).round(4)
    array([0.6931])
    """
    width = int(class_N.max(initial=0)) + 2
    table = np.bincount(problem_N * width + class_N + 1, minlength=problems * width).reshape(problems, width)
    count = table.sum(axis=1, keepdims=True)
    share = np.divide(table, count, out=np.zeros(table.shape), where=count > 0)
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=1)
    return np.where(count[:, 0] > 0, entropy, np.nan)


def _winners(cell_N: Ints, voting: NDArray[np.bool_], worth: Floats, ties: str) -> Floats:
    """Return what the leading classes of every problem are worth, 0 where nobody votes."""
    count = np.bincount(cell_N[voting], minlength=worth.size).reshape(worth.shape)
    leading = (count == count.max(axis=1, keepdims=True, initial=0)) & (count > 0)
    if ties == "first":
        first = np.full(worth.size, len(cell_N))
        np.minimum.at(first, cell_N[voting], np.flatnonzero(voting))
        given = np.where(leading, first.reshape(worth.shape), len(cell_N))
        leading &= given == given.min(axis=1, keepdims=True, initial=len(cell_N))
    return np.where(leading, worth, 0.0).sum(axis=1) / np.maximum(leading.sum(axis=1), 1)
