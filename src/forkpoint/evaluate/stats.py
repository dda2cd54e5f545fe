"""Honest statistics of an evaluation: the problem is the unit, its answers are repeated measurements.

A verdict matrix (problems x samples, possibly ragged) comes as two arrays of the same length: the problem of
every answer and its value (1 right, 0 wrong, NaN not judged, or any score). Answers that were not judged are
left out. scipy loads on the first interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from forkpoint.errors import InputError, did_you_mean
from forkpoint.evaluate.intervals import Ends, bootstrap, check_level, clustered_wilson, standard_error, student
from forkpoint.evaluate.share_intervals import shares


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

    The interval of values in [0, 1] is `share_intervals.shares`: where every problem is all right or all wrong Wilson's
    with the problems as trials, moved out to the exact mid-p one; else that of a mean with Dirichlet weights. Of other
    scores it is Student's t.

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
    means, counts = problem_means(problems, values)
    return mean_estimate(list(means.values()), samples=sum(counts.values()), level=level)


def mean_estimate(
    values_P: Sequence[float] | NDArray[np.float64],
    *,
    samples: int,
    level: float = 0.95,
    interval: Literal["auto", "shares", "wilson", "student", "bootstrap"] = "auto",
    seed: int = 0,
) -> Estimate:
    """Return the mean over problems with its interval.

    Args:
        values_P: One value a problem; NaN means that the problem has none and is left out.
        samples: Answers they come from, for the record.
        level: Coverage of the interval, in (0, 1).
        interval: `shares` (`share_intervals`) or `wilson`, `student`, `bootstrap` (`intervals`); `auto` is `shares` for
            values in [0, 1], else `student`.
        seed: Of the bootstrap.

    Returns:
        The estimate; `error` and the interval are NaN for fewer than two problems.

    Raises:
        InputError: Where `level` is out of range, the name of the interval is unknown, or a value is infinite.

    >>> found = mean_estimate([1.0, 0.0, 0.5], samples=6)
    >>> found.value, round(found.error, 4), found.problems
    (0.5, 0.2887, 3)
    """
    check_level(level)
    values = np.asarray(values_P, np.float64)
    values = values[~np.isnan(values)]
    if np.isinf(values).any():
        raise InputError("a value is infinite: only finite numbers have a mean; leave it out as NaN")
    size = len(values)
    value = math.fsum(values) / size if size else math.nan
    if size < 2:
        return Estimate(value=value, low=math.nan, high=math.nan, error=math.nan, problems=size, samples=samples)
    inside = bool(((values >= 0) & (values <= 1)).all())
    chosen = ("shares" if inside else "student") if interval == "auto" else interval
    if chosen not in _INTERVALS:
        raise InputError(f"unknown interval {interval!r}: {did_you_mean(interval, ['auto', *_INTERVALS])}")
    if chosen in ("shares", "wilson") and not inside:
        raise InputError(f"the interval {chosen!r} needs values in [0, 1]: choose 'student' or 'bootstrap'")
    low, high = bootstrap(values, level, seed=seed) if chosen == "bootstrap" else _INTERVALS[chosen](values, level)
    return Estimate(
        value=value, low=float(low), high=float(high), error=float(standard_error(values)), problems=size,
        samples=samples,
    )  # fmt: skip


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


_INTERVALS: dict[str, Callable[..., Ends]] = {
    "shares": shares, "wilson": clustered_wilson, "student": student, "bootstrap": bootstrap,
}  # fmt: skip
