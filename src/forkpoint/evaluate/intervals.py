"""Intervals for a mean over problems, as pure functions of arrays whose last axis is the problem.

Every function takes the value of each problem, (..., P), and returns the ends of the interval, (...). Leading axes
are independent evaluations, or several k of one: they are computed at once. scipy loads on the first call.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forkpoint.errors import InputError

Ends = tuple[NDArray[np.float64], NDArray[np.float64]]

RESAMPLES = 9999
"""Bootstrap draws of a reported interval."""
ROUNDING = 1e-12
"""Relative to the larger of 1 and the values: what differs by less differs by the rounding of their sums."""
_CELLS = 1 << 22
"""Numbers that a batch of bootstrap draws may hold: 32 MiB."""


def check_level(level: float) -> None:
    """Raise InputError unless a coverage lies between 0 and 1."""
    if not 0.0 < level < 1.0:
        raise InputError(f"the level of an interval is between 0 and 1, for example 0.95, not {level}")


def standard_error(values: ArrayLike) -> NDArray[np.float64]:
    r"""Return the standard error of the mean over the last axis.

        error = std(values, ddof=1) / sqrt(P)

    It is 0 where the values differ by no more than rounding.

    >>> float(standard_error([0.0, 0.5, 1.0]).round(6))
    0.288675
    """
    array = np.asarray(values, np.float64)
    alike = np.ptp(array, axis=-1) <= ROUNDING * np.maximum(np.abs(array).max(axis=-1), 1)
    return np.where(alike, 0.0, array.std(axis=-1, ddof=1) / np.sqrt(array.shape[-1]))


def differences_of(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Return first - second, 0 where they are the same but for rounding.

    >>> differences_of([0.1 + 0.2, 1.0], [0.3, 0.0]).tolist()
    [0.0, 1.0]
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return np.where(np.abs(a - b) <= ROUNDING * np.maximum(np.maximum(np.abs(a), np.abs(b)), 1), 0.0, a - b)


def student(values: ArrayLike, level: float = 0.95) -> Ends:
    r"""Return Student's t interval of the mean over the last axis.

        mean ± t(P - 1) error

    Args:
        values: float (..., P), P >= 2.
        level: Coverage, in (0, 1).

    Returns:
        Lower and upper ends, (...).

    Source: Miller 2024, arXiv 2411.00640, section 2, with t in place of the normal quantile.
    """
    from scipy.stats import t

    check_level(level)
    array = np.asarray(values, np.float64)
    half = t.ppf(0.5 + level / 2, array.shape[-1] - 1) * standard_error(array)
    mean = array.mean(axis=-1)
    return mean - half, mean + half


def wilson(share: ArrayLike, trials: ArrayLike, quantile: ArrayLike) -> Ends:
    r"""Return Wilson's score interval of a share.

        (p + z²/2n ± z sqrt(p (1 - p) / n + z²/4n²)) / (1 + z²/n)

    Args:
        share: p, in [0, 1].
        trials: n > 0; need not be whole.
        quantile: z, 1.96 for a level of 95 %.

    Returns:
        Lower and upper ends.

    Source: Wilson 1927.

    >>> [float(end.round(3)) for end in wilson(9 / 30, 30, 1.959964)]
    [0.167, 0.479]
    """
    p, n, z = (np.asarray(value, np.float64) for value in (share, trials, quantile))
    centre = p + z**2 / (2 * n)
    half = z * np.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    return np.clip((centre - half) / (1 + z**2 / n), 0, p), np.clip((centre + half) / (1 + z**2 / n), p, 1)


def clustered_wilson(values: ArrayLike, level: float = 0.95) -> Ends:
    r"""Return Wilson's interval of a mean of shares, with the number of trials that their spread implies.

        n* = m (1 - m) / error²,   error² = (s² + m (1 - m) / P) / (P + 1)

    m and s² are mean and variance of the P shares, m (1 - m) is the largest variance they can have, and one problem of
    that variance is added. The quantile is Student's with P - 1 degrees of freedom. Where every share is 0 or 1 it is
    Wilson's own interval with P trials and the normal quantile. For many problems it becomes Student's interval.
    Where rare problems hold much of the mean and few of them were drawn it is too narrow: `shares` is not.

    Args:
        values: float (..., P) in [0, 1], P >= 2.
        level: Coverage, in (0, 1).

    Returns:
        Lower and upper ends, (...).

    Source: Wilson 1927; effective trials as in Korn and Graubard 1998.

    >>> low, high = clustered_wilson([[1.0, 0.0] * 15, [0.5, 0.5] * 15])
    >>> low.round(2), high.round(2)
    (array([0.33, 0.47]), array([0.67, 0.53]))
    """
    from scipy.stats import norm, t

    check_level(level)
    array = np.asarray(values, np.float64)
    size = array.shape[-1]
    mean = array.mean(axis=-1)
    most = mean * (1 - mean)
    plain = ((array == 0) | (array == 1)).all(axis=-1) | (most < 1e-12)
    error_squared = (array.var(axis=-1, ddof=1) + most / size) / (size + 1)
    trials = np.where(plain, size, most / np.where(plain, 1.0, error_squared))
    quantile = np.where(plain, norm.ppf(0.5 + level / 2), t.ppf(0.5 + level / 2, size - 1))
    return wilson(mean, trials, quantile)


def bootstrap(values: ArrayLike, level: float = 0.95, *, resamples: int = RESAMPLES, seed: int = 0) -> Ends:
    r"""Return the BCa bootstrap interval of the mean over the last axis, problems drawn with replacement.

    The percentiles are expanded: the spread of P drawn problems is that of the sample, sqrt((P - 1) / P) too small, and
    its quantiles are Student's. Both are made up for by asking for

        level' = 2 Phi(sqrt(P / (P - 1)) t(P - 1)) - 1

    Leading axes share the draws, so the curves of several k bend together. It makes no assumption on the values, and
    where rare problems hold much of the mean it is still too narrow: see benchmarks/interval_coverage.py.

    Args:
        values: float (..., P), P >= 2.
        level: Coverage, in (0, 1).
        resamples: Draws of P problems.
        seed: Of the draws.

    Returns:
        Lower and upper ends, (...); both are the mean where all problems have one value.

    Source: Efron 1987 (bias-corrected and accelerated), by `scipy.stats.bootstrap`; expanded percentiles: Hesterberg
    2015, arXiv 1411.5279.
    """
    from scipy import stats

    check_level(level)
    array = np.asarray(values, np.float64)
    flat = array.reshape(-1, array.shape[-1])
    low = high = flat.mean(axis=-1)
    moving = np.ptp(flat, axis=-1) > 0
    if moving.any():
        size = array.shape[-1]
        expanded = 2 * stats.norm.cdf(np.sqrt(size / (size - 1)) * stats.t.ppf(0.5 + level / 2, size - 1)) - 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            found = stats.bootstrap(
                (flat[moving],), np.mean, axis=-1, vectorized=True, method="BCa", confidence_level=float(expanded),
                n_resamples=resamples, batch=max(1, _CELLS // flat[moving].size), rng=np.random.default_rng(seed),
            ).confidence_interval  # fmt: skip
        # Where no draw falls on one side of the mean the correction has no value; Student's interval has.
        plain = student(flat[moving], level)
        low, high = low.copy(), high.copy()
        low[moving], high[moving] = (
            np.where(np.isnan(end), other, end) for end, other in zip((found.low, found.high), plain, strict=True)
        )
    shape = array.shape[:-1]
    return low.reshape(shape), high.reshape(shape)
