"""Confidence bands: what a number of a corpus would have been with other responses.

Tokens of one response depend on each other, so the response, or the problem it answers, is what is drawn
again. Every statistic is first reduced to sums per response; the bootstrap then costs nothing per token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from forkpoint.analyze.measures.flat import Floats, Ints, sums_by
from forkpoint.errors import InputError
from forkpoint.seeds import generator

DRAWS = 1000
_CELLS = 4_000_000  # weights held at once


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number with its interval, NaN where it cannot be known."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return `0.123 [0.110, 0.141]`."""
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True, kw_only=True)
class Band:
    """K numbers with their intervals, float64 (K,) each."""

    value: Floats
    low: Floats
    high: Floats

    def at(self, index: int) -> Interval:
        """Return one of them."""
        return Interval(value=float(self.value[index]), low=float(self.low[index]), high=float(self.high[index]))

    def scaled(self, factor: float) -> Band:
        """Return all numbers times a factor > 0."""
        return Band(value=self.value * factor, low=self.low * factor, high=self.high * factor)


def ratio_band(
    top_RK: ArrayLike,
    bottom_RK: ArrayLike,
    *,
    cluster_R: ArrayLike | None = None,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Band:
    r"""Return sums over responses divided by sums over responses, with percentile-bootstrap bands.

        value_k = Σ_r top_rk / Σ_r bottom_rk

    A mean over tokens is such a ratio (sum of values over number of tokens), a share of tokens too. Each draw
    takes as many clusters as there are, with replacement; a response without tokens is no unit. Percentile
    bands of fewer than about 20 units are too narrow.

    Args:
        top_RK: (R, K) or (R,), numerators of every response.
        bottom_RK: (R, K), (R, 1) or (R,), denominators.
        cluster_R: problem of every response, where responses to one problem are to be drawn together.
        level: coverage in (0, 1).
        draws: bootstrap draws.
        seed: another seed gives other draws; the same one the same bytes.

    Returns:
        Band of K numbers; NaN where the denominator is 0, and NaN intervals for fewer than two units.

    Raises:
        InputError: level or draws out of range, or clusters that do not fit the responses.

    Source: percentile bootstrap of Efron 1979 over clusters, as arXiv 2411.00640 asks for repeated answers.

    >>> ratio_band([[2.0], [4.0]], [[1.0], [3.0]]).value.tolist()
    [1.5]
    """
    if not 0 < level < 1 or draws < 2:
        raise InputError(f"an interval needs a level in (0, 1) and 2 or more draws, not {level} and {draws}")
    top, bottom = _matrix(top_RK), _matrix(bottom_RK)
    bottom = np.broadcast_to(bottom, top.shape) if bottom.shape[1] == 1 else bottom
    top, bottom = _clustered(top, cluster_R), _clustered(bottom, cluster_R)
    used = (bottom != 0).any(1) | (top != 0).any(1)
    top, bottom = top[used], bottom[used]
    value = _divide(top.sum(0), bottom.sum(0))
    units = top.shape[0]
    if units < 2:
        nothing = np.full(value.shape, np.nan)
        return Band(value=value, low=nothing, high=nothing)
    drawn = np.concatenate([_divide(w @ top, w @ bottom) for w in _weights(units, draws, seed)])
    low, high = _quantiles(drawn, (0.5 - level / 2, 0.5 + level / 2))
    return Band(value=value, low=low, high=high)


def mean_interval(
    value_N: Floats, response_N: Ints, responses: int, *, cluster_R: ArrayLike | None = None, level: float = 0.95
) -> Interval:
    """Return the mean over tokens with its interval over responses (`ratio_band` of one number)."""
    top, bottom = sums_by(response_N, responses, value_N), sums_by(response_N, responses)
    return ratio_band(top, bottom, cluster_R=cluster_R, level=level).at(0)


def quantile_band(
    value_N: Floats,
    response_N: Ints,
    responses: int,
    q_K: ArrayLike,
    *,
    cluster_R: ArrayLike | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Band:
    """Return pooled quantiles with bands over responses (Woodruff's inversion).

        x_k = quantile(q_k);  the interval of the share at or below x_k is carried over by quantile() itself

    One pass over the tokens gives the share's bootstrap interval [F - a, F + b]; the quantile's interval is
    [quantile(q - a), quantile(q + b)]. The smallest and the largest value (q = 0, 1) get no interval.

    Args:
        value_N: finite values of tokens.
        response_N: their responses.
        responses: R.
        q_K: quantiles in [0, 1], linear interpolation.
        cluster_R: as in `ratio_band`.
        level: coverage.
        seed: of the draws.

    Returns:
        Band of K quantiles, in the unit of the values.

    Source: Woodruff 1952, confidence intervals for medians and other position measures.

    >>> quantile_band(np.array([1.0, 2.0, 3.0]), np.array([0, 0, 1]), 2, [0.5]).value.tolist()
    [2.0]
    """
    q = np.atleast_1d(np.asarray(q_K, dtype=np.float64))
    if not ((q >= 0) & (q <= 1)).all():
        raise InputError(f"quantiles are in [0, 1], not {q.tolist()}")
    ordered = np.sort(value_N)
    value = _of_sorted(ordered, q)
    # Class k holds what lies above quantile k - 1 and at or below quantile k; sums over classes are shares below.
    by_size = np.argsort(value, kind="stable")
    class_N = np.searchsorted(value[by_size], value_N, side="left")
    below_RK = np.bincount(response_N * (q.size + 1) + class_N, minlength=responses * (q.size + 1))
    below_RK = below_RK.reshape(responses, q.size + 1).cumsum(1)[:, :-1].astype(np.float64)
    share = ratio_band(below_RK, sums_by(response_N, responses), cluster_R=cluster_R, level=level, seed=seed)
    low, high = np.full(q.shape, np.nan), np.full(q.shape, np.nan)
    low[by_size] = share.value - share.low
    high[by_size] = share.high - share.value
    low, high = (_of_sorted(ordered, np.clip(at, 0.0, 1.0)) for at in (q - low, q + high))
    edge = (q == 0) | (q == 1)
    return Band(value=value, low=np.where(edge, np.nan, low), high=np.where(edge, np.nan, high))


def _of_sorted(ordered: Floats, q: Floats) -> Floats:
    """Return quantiles of sorted values with linear interpolation; NaN stays NaN."""
    place = np.where(np.isnan(q), 0.0, q) * (ordered.size - 1)
    lower = np.floor(place).astype(np.int64)
    upper = np.minimum(lower + 1, ordered.size - 1)
    part = place - lower
    return np.where(np.isnan(q), np.nan, ordered[lower] * (1 - part) + ordered[upper] * part)


def _matrix(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    return array[:, None] if array.ndim == 1 else array


def _clustered(values_RK: Floats, cluster_R: ArrayLike | None) -> Floats:
    if cluster_R is None:
        return values_RK
    cluster = np.asarray(cluster_R)
    if cluster.shape != values_RK.shape[:1]:
        raise InputError(f"{cluster.size} problems are named for {values_RK.shape[0]} responses: give one a response")
    names, which = np.unique(cluster, return_inverse=True)
    out = np.zeros((names.size, values_RK.shape[1]))
    np.add.at(out, which, values_RK)
    return out


def _divide(top: Floats, bottom: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom != 0, top / bottom, np.nan)


def _weights(units: int, draws: int, seed: int) -> Iterator[Floats]:
    """Yield how often each unit was drawn, float64 (some draws, units), until `draws` rows are out."""
    stream = generator("bootstrap", seed)
    step = max(1, _CELLS // units)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        index = stream.integers(units, size=(rows, units))
        index += np.arange(rows)[:, None] * units
        yield np.bincount(index.ravel(), minlength=rows * units).reshape(rows, units).astype(np.float64)


def _quantiles(drawn_DK: Floats, at: tuple[float, float]) -> tuple[Floats, Floats]:
    """Return two quantiles of every column, ignoring draws in which its denominator was 0."""
    empty = np.isnan(drawn_DK).all(0)
    low, high = np.full(empty.shape, np.nan), np.full(empty.shape, np.nan)
    if not empty.all():
        low[~empty], high[~empty] = np.nanquantile(drawn_DK[:, ~empty], at, axis=0)
    return low, high
