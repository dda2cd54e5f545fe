"""Honest statistics of an evaluation: the problem is the unit, its answers are repeated measurements.

A verdict matrix (problems x samples, possibly ragged) comes as two arrays of the same length: the problem of
every answer and its value (1 right, 0 wrong, NaN not judged, or any score). Answers that were not judged are
left out. scipy loads on the first interval.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forkpoint.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its uncertainty."""

    value: float
    """The estimate, NaN where nothing was judged."""
    low: float
    """Lower end of the interval, NaN for fewer than two problems."""
    high: float
    """Upper end of the interval, NaN for fewer than two problems."""
    error: float
    """Standard error, NaN for fewer than two problems."""
    problems: int
    """Problems with at least one judged answer."""
    samples: int
    """Judged answers."""


def problem_means(
    problems: Sequence[Hashable], values: Sequence[float]
) -> tuple[dict[Hashable, float], dict[Hashable, int]]:
    """Return the mean value and the number of judged answers of every problem, in order of appearance.

    Args:
        problems: The problem of every answer.
        values: The value of every answer; NaN means not judged and is left out.

    Raises:
        InputError: Where the two differ in length.

    >>> problem_means(["a", "b", "a"], [1.0, 0.0, 0.0])
    ({'a': 0.5, 'b': 0.0}, {'a': 2, 'b': 1})
    """
    if len(problems) != len(values):
        raise InputError(f"{len(problems)} problem ids do not match {len(values)} values: give one id a value")
    grouped: dict[Hashable, list[float]] = {}
    for problem, value in zip(problems, values, strict=True):
        if not math.isnan(value):
            grouped.setdefault(problem, []).append(float(value))
    means = {problem: math.fsum(group) / len(group) for problem, group in grouped.items()}
    return means, {problem: len(group) for problem, group in grouped.items()}


def accuracy(problems: Sequence[Hashable], values: Sequence[float], *, level: float = 0.95) -> Estimate:
    r"""Return the mean over problems of the mean over their answers, with a clustered interval.

        m_p = mean of the values of problem p;  value = mean_p m_p;  error = std(m, ddof=1) / sqrt(P)

    The interval is Student's t with P - 1 degrees of freedom, cut to [0, 1] for values in [0, 1]. It is
    Wilson's for 0/1 values with one answer a problem, and also where every answer is right or every answer
    is wrong, with the problems as trials: there the error is 0 and t would claim certainty.

    Args:
        problems: The problem of every answer.
        values: 1 right, 0 wrong, NaN not judged, or any score.
        level: Coverage of the interval, in (0, 1).

    Returns:
        The estimate; `error` and the interval are NaN for fewer than two problems.

    Raises:
        InputError: Where lengths differ or `level` is out of range.

    Source: Miller 2024, arXiv 2411.00640, sections 2 and 3; Wilson 1927 for small samples (arXiv 2503.01747).

    >>> accuracy([1, 1, 2, 2], [1, 1, 1, 0]).value
    0.75
    """
    _check(level)
    means, counts = problem_means(problems, values)
    mean = np.array(list(means.values()))
    size, samples = len(means), sum(counts.values())
    if size < 2:
        value = float(mean[0]) if size else math.nan
        return Estimate(value=value, low=math.nan, high=math.nan, error=math.nan, problems=size, samples=samples)
    value, error = float(mean.mean()), _standard_error(mean)
    binary = bool(np.isin(mean, (0.0, 1.0)).all())
    if binary and (samples == size or value in (0.0, 1.0)):
        low, high = _wilson(round(value * size), size, level)
    else:
        low, high = _student(value, error, size, level)
        if all(0.0 <= v <= 1.0 for v in values if not math.isnan(v)):
            low, high = max(low, 0.0), min(high, 1.0)
    return Estimate(value=value, low=low, high=high, error=error, problems=size, samples=samples)


def paired_difference(
    problems_a: Sequence[Hashable],
    values_a: Sequence[float],
    problems_b: Sequence[Hashable],
    values_b: Sequence[float],
    *,
    level: float = 0.95,
) -> Estimate:
    r"""Return the difference a - b over the problems both evaluations share.

        d_p = m_p(a) - m_p(b);  value = mean_p d_p;  error = std(d, ddof=1) / sqrt(P)

    Pairing removes the spread between easy and hard problems, which both evaluations share.

    Args:
        problems_a: The problem of every answer of a.
        values_a: Their values; NaN means not judged.
        problems_b: The problem of every answer of b.
        values_b: Their values.
        level: Coverage of Student's t interval, in (0, 1).

    Returns:
        The estimate; `samples` counts the answers of both on shared problems. `error` and the interval are
        NaN for fewer than two shared problems.

    Raises:
        InputError: Where no problem is shared, lengths differ, or `level` is out of range.

    Source: Miller 2024, arXiv 2411.00640, section 4.

    >>> paired_difference(["a", "b"], [1, 1], ["b", "a", "c"], [0, 1, 1]).value
    0.5
    """
    _check(level)
    means_a, counts_a = problem_means(problems_a, values_a)
    means_b, counts_b = problem_means(problems_b, values_b)
    shared = [problem for problem in means_a if problem in means_b]
    if not shared:
        raise InputError("the two evaluations have no judged problem in common: compare runs on the same problem set")
    difference = np.array([means_a[p] - means_b[p] for p in shared])
    samples = sum(counts_a[p] + counts_b[p] for p in shared)
    size, value = len(shared), float(difference.mean())
    if size < 2:
        return Estimate(value=value, low=math.nan, high=math.nan, error=math.nan, problems=size, samples=samples)
    error = _standard_error(difference)
    low, high = _student(value, error, size, level)
    return Estimate(value=value, low=low, high=high, error=error, problems=size, samples=samples)


def unpaired_difference(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """Return the difference of two shares and Newcombe's hybrid interval from their own intervals.

    `d - sqrt((p2 - l2)^2 + (u1 - p1)^2)` to `d + sqrt((u2 - p2)^2 + (p1 - l1)^2)` (Newcombe 1998, method 10).

    Args:
        before: Share, low, high of the first.
        after: Share, low, high of the second.

    Returns:
        Difference, low, high.

    >>> [round(x, 3) for x in unpaired_difference((0.2, 0.16, 0.25), (0.5, 0.44, 0.56))]
    [0.3, 0.222, 0.372]
    """
    p1, l1, u1 = before
    p2, l2, u2 = after
    return p2 - p1, p2 - p1 - math.hypot(p2 - l2, u1 - p1), p2 - p1 + math.hypot(u2 - p2, p1 - l1)


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def _check(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise InputError(f"the level of an interval is between 0 and 1, for example 0.95, not {level}")


def _student(value: float, error: float, size: int, level: float) -> tuple[float, float]:
    from scipy.stats import t

    half = float(t.ppf(0.5 + level / 2, size - 1)) * error
    return value - half, value + half


def _wilson(right: int, size: int, level: float) -> tuple[float, float]:
    from scipy.stats import binomtest

    interval = binomtest(right, size).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)
