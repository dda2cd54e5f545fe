"""Statistics of a stream that merge: the same numbers whether it is read at once, in batches or in parts.

Quantiles come from a histogram whose bins are the leading bits of a float32, so that a bin is found without a
logarithm, merging is addition, and neither the order nor the cutting of the stream matters. Moments are of double
precision around a running mean.

Error of a quantile: it lies in the bin of the value of exactly that rank, so with BITS = 12 leading bits of the
significand it is off by at most 2^-13 (0.013 %) of that value; values below 2^-30 in size count as 0. Counts, shares
of listed levels, minimum and maximum are exact.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BITS = 12
"""Leading bits of the significand that tell bins apart."""
SMALLEST, LARGEST = -30, 16
"""Values below 2^SMALLEST in size count as 0, those above 2^LARGEST as that."""
RELATIVE_ERROR = 2.0 ** -(BITS + 1)
_SHIFT = 23 - BITS
_FIRST = (SMALLEST + 127) << BITS
BINS = ((LARGEST - SMALLEST) << BITS) + 1
"""Bins of one sign; bin 0 is zero."""
_CHUNK = 1 << 16
BELOW = (0.01,)
"""Levels below which tokens are counted exactly (the paper's share is of 0.01)."""


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """Count, moments, extremes and quantiles of a stream of numbers; NaN and infinity are counted apart."""

    count: int = 0
    missing: int = 0
    """NaN and infinities, which nothing else includes."""
    mean: float = math.nan
    squares: float = 0.0
    """Σ (x - mean)²."""
    low: float = math.inf
    high: float = -math.inf
    below: tuple[int, ...] = (0,) * len(BELOW)
    """How many values are below each of `BELOW`."""
    positive: NDArray[np.int64] | None = None
    """(BINS,): counts of values >= 0; None while there are none."""
    negative: NDArray[np.int64] | None = None
    """(BINS,): counts of values < 0 by size; None while there are none."""

    @property
    def variance(self) -> float:
        """Unbiased; NaN for fewer than two values."""
        return self.squares / (self.count - 1) if self.count > 1 else math.nan

    def share_below(self, level: float) -> float:
        """Return the exact share of values below one of `BELOW`."""
        return self.below[BELOW.index(level)] / self.count if self.count else math.nan


@np.errstate(invalid="ignore", over="ignore")  # infinities of a source are counted, not warned of
def sketch(values: NDArray[np.floating]) -> Sketch:
    """Return the sketch of an array.

    >>> s = sketch(np.array([1.0, 2.0, np.nan]))
    >>> s.count, s.missing, s.mean, s.low, s.high
    (2, 1, 1.5, 1.0, 2.0)
    """
    x = np.ascontiguousarray(values, dtype=np.float32).ravel()
    # One sum tells whether anything is not finite, at a third of the cost of testing every value.
    total = float(np.add.reduce(x, dtype=np.float64))
    missing = 0
    if not math.isfinite(total):
        finite = np.isfinite(x)
        missing = int(x.size - np.count_nonzero(finite))
        x = x[finite]
        total = float(np.add.reduce(x, dtype=np.float64))
    if not x.size:
        return Sketch(missing=missing)
    mean = total / x.size
    mean_64 = np.float64(mean)  # a Python float would leave the difference in float32
    squares = 0.0
    for start in range(0, x.size, _CHUNK):
        deviation = x[start : start + _CHUNK] - mean_64
        squares += float(np.dot(deviation, deviation))
    low, high = float(x.min()), float(x.max())
    positive = negative = None
    if low < 0:
        is_negative = x < 0
        negative = _bins(-x[is_negative])
        rest = x[~is_negative]
        positive = _bins(rest) if rest.size else None
    else:
        positive = _bins(x)
    below = tuple(int(np.count_nonzero(x < np.float32(level))) for level in BELOW)
    return Sketch(
        count=x.size, missing=missing, mean=mean, squares=squares, low=low, high=high, below=below, positive=positive,
        negative=negative,
    )  # fmt: skip


def merged(a: Sketch, b: Sketch) -> Sketch:
    """Return the sketch of both streams together.

        mean = (n_a m_a + n_b m_b) / n,   S = S_a + S_b + (m_a - m_b)² n_a n_b / n

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances"
    (1979).
    """
    if not a.count or not b.count:
        one = a if a.count else b
        return dataclasses.replace(one, missing=a.missing + b.missing)
    count, gap = a.count + b.count, b.mean - a.mean
    return Sketch(
        count=count,
        missing=a.missing + b.missing,
        mean=a.mean + gap * (b.count / count),
        squares=a.squares + b.squares + gap * gap * (a.count * (b.count / count)),
        low=min(a.low, b.low),
        high=max(a.high, b.high),
        below=tuple(x + y for x, y in zip(a.below, b.below, strict=True)),
        positive=_added(a.positive, b.positive),
        negative=_added(a.negative, b.negative),
    )


def quantiles(s: Sketch, shares: Sequence[float]) -> NDArray[np.float64]:
    """Return quantiles: for share q the value of rank ceil(q n) in ascending order (the first for q = 0).

    Args:
        s: a sketch.
        shares: in [0, 1].

    Returns:
        float64, each within `RELATIVE_ERROR` of the exact one; NaN where there are no values.

    >>> quantiles(sketch(np.arange(1, 101)), [0.5, 0.8]).round(1)
    array([50., 80.])
    """
    if not s.count:
        return np.full(len(shares), np.nan)
    zero = np.zeros(BINS, np.int64)
    negative, positive = (zero if part is None else part for part in (s.negative, s.positive))
    counts = np.concatenate([negative[::-1], positive])
    centres = _centres()
    values = np.concatenate([-centres[::-1], centres])
    ranks = np.clip(np.ceil(np.asarray(shares, np.float64) * s.count), 1, s.count)
    return np.clip(values[np.searchsorted(np.cumsum(counts), ranks)], s.low, s.high)


def histogram(s: Sketch, edges: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return counts between ascending edges, last edge included; each value counts where its bin's centre lies.

    >>> histogram(sketch(np.array([0.1, 0.2, 0.7])), np.array([0.0, 0.5, 1.0]))
    array([2, 1])
    """
    zero = np.zeros(BINS, np.int64)
    centres = _centres()
    negative, positive = (zero if part is None else part for part in (s.negative, s.positive))
    values, counts = np.concatenate([-centres[::-1], centres]), np.concatenate([negative[::-1], positive])
    return np.histogram(np.clip(values, s.low, s.high), bins=edges, weights=counts)[0].astype(np.int64)


def _bins(x: NDArray[np.float32]) -> NDArray[np.int64]:
    """Count non-negative float32 values by the leading bits of their representation, which ascend with the value."""
    index = x.view(np.int32) >> _SHIFT
    index -= _FIRST - 1
    np.clip(index, 0, BINS - 1, out=index)
    return np.bincount(index, minlength=BINS)


@functools.cache
def _centres() -> NDArray[np.float64]:
    """Return the middle of every bin; bin 0 stands for 0."""
    edges = ((np.arange(BINS, dtype=np.int64) + _FIRST) << _SHIFT).astype(np.int32).view(np.float32).astype(np.float64)
    return np.concatenate([[0.0], (edges[:-1] + edges[1:]) / 2])


def _added(a: NDArray[np.int64] | None, b: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
    return a if b is None else b if a is None else a + b
