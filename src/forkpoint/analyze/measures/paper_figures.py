"""The paper's figures of token entropy: histogram, and change by base percentile.

Each is one function from arrays to data and one from data to SVG. Source: arXiv 2506.01939, figures 2a and 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from forkpoint.analyze import drawing
from forkpoint.analyze.measures.bands import Band, Interval, mean_interval, quantile_band, ratio_band
from forkpoint.analyze.measures.flat import Floats, sums_by, table_by, tokens
from forkpoint.analyze.svg import BLUE, ORANGE
from forkpoint.errors import InputError

NEAR_ZERO = 0.01
"""Entropy in nats below which the paper calls a token certain."""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How token entropies are spread."""

    edges: Floats
    """float64 (K + 1,), nats, from 0 to the largest entropy."""
    count: Band
    """Tokens in each of the K bins; bands over responses."""
    near_zero: float
    below: Interval
    """Share of tokens with an entropy below `near_zero`."""
    quantile: float
    cut: Interval
    """The `quantile` of all entropies, nats."""
    tokens: int
    responses: int
    left_out: int
    """Tokens without a number."""


def entropy_histogram(
    entropy: ArrayLike,
    offsets: ArrayLike,
    *,
    bins: int = 48,
    near_zero: float = NEAR_ZERO,
    quantile: float = 0.8,
    cluster_R: ArrayLike | None = None,
    level: float = 0.95,
) -> Histogram:
    """Return the histogram of token entropy, the share near zero and a quantile, with bands over responses.

        below = (1/N) Σ_t [H_t < near_zero];  cut = quantile of all H_t, linear interpolation

    Args:
        entropy: (N,) nats; NaN is left out and counted, values below 0 (rounding) count as 0.
        offsets: int (R + 1,).
        bins: K, of equal width.
        near_zero: nats.
        quantile: in [0, 1].
        cluster_R: problem of every response, to draw problems rather than responses.
        level: coverage of all intervals.

    Returns:
        The data. All-equal entropies fill one bin; one response gives NaN intervals.

    Raises:
        InputError: no token with a number, or offsets that do not fit.

    Source: arXiv 2506.01939 figure 2a (there 50.64 % below 0.01 and a cut of 0.672).

    >>> found = entropy_histogram([0.0, 0.0, 0.5, 1.0], [0, 2, 4], bins=2)
    >>> found.count.value.tolist(), found.below.value, round(found.cut.value, 3)
    ([2.0, 2.0], 0.5, 0.7)
    """
    if bins < 1:
        raise InputError(f"a histogram has 1 or more bins, not {bins}")
    data = tokens(offsets, entropy=entropy)
    value_N = np.maximum(data.value["entropy"], 0.0)
    top = max(float(value_N.max()), 1e-3)
    bin_N = np.minimum((value_N * (bins / top)).astype(np.int64), bins - 1)
    count_RK = table_by(data.response_N, data.responses, bin_N, bins)
    share = ratio_band(count_RK, sums_by(data.response_N, data.responses), cluster_R=cluster_R, level=level)
    where = (data.response_N, data.responses)
    return Histogram(
        edges=np.linspace(0.0, top, bins + 1),
        # The counts themselves, not shares times N: they are whole numbers.
        count=Band(value=count_RK.sum(0), low=share.low * data.count, high=share.high * data.count),
        near_zero=near_zero,
        below=mean_interval((value_N < near_zero).astype(np.float64), *where, cluster_R=cluster_R, level=level),
        quantile=quantile,
        cut=quantile_band(value_N, *where, [quantile], cluster_R=cluster_R, level=level).at(0),
        tokens=data.count,
        responses=data.responses,
        left_out=data.left_out,
    )


def plot_entropy_histogram(
    found: Mapping[str, Histogram], *, name: str = "entropy-histogram", lower_bound: bool = False
) -> str:
    """Draw histograms with logarithmic counts, bands and the cut of each.

    Args:
        found: label to data; two read well.
        name: prefix of all ids in the SVG.
        lower_bound: the entropies are lower bounds (top-k log-probs).

    Returns:
        An `<svg>` element as text.
    """
    figure, (axes,) = drawing.panels()
    words = []
    for series, (label, data) in enumerate(found.items()):
        color, style, _ = drawing.SERIES[series % len(drawing.SERIES)]
        text = (
            f"{label}: {100 * data.below.value:.1f} % below {data.near_zero:g}, "
            f"{100 * data.quantile:g}th percentile {data.cut.value:.3f}"
        )
        axes.stairs(
            data.count.value, data.edges, color=color, linewidth=1.4, linestyle=style, label=drawing.named(text)
        )
        if np.isfinite(data.count.low).all():
            axes.stairs(
                data.count.high, data.edges, baseline=np.maximum(data.count.low, 0.1), fill=True,
                color=color, alpha=0.22, linewidth=0,
            )  # fmt: skip
        axes.axvline(data.cut.value, color=color, linewidth=1.1, linestyle=style)
        words.append(text)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.set_xlim(left=0.0)
    label = drawing.entropy_axis(lower_bound)
    drawing.finish(axes, f"{label}; vertical lines are the percentiles", "tokens (log scale)")
    drawing.legend(figure, axes)
    return drawing.to_svg(figure, name, f"Histogram of token {label}. {'. '.join(words)}.")


@dataclass(frozen=True, kw_only=True)
class ChangeByPercentile:
    """How much entropy changed where it had been low or high."""

    edges: Floats
    """float64 (K + 1,), percentiles of base entropy, 0 to 100."""
    base_low: Floats
    """float64 (K,), smallest base entropy in each bin, nats."""
    base_high: Floats
    """float64 (K,), largest."""
    change: Band
    """Mean of final minus base entropy in each bin, nats; NaN in an empty bin."""
    tokens: int
    responses: int
    left_out: int


def change_by_percentile(
    base: ArrayLike,
    final: ArrayLike,
    offsets: ArrayLike,
    *,
    bins: int = 20,
    cluster_R: ArrayLike | None = None,
    level: float = 0.95,
) -> ChangeByPercentile:
    """Return the mean entropy change by percentile of base entropy, over the same tokens under two models.

        bin(t) = floor(bins * rank of H_base,t / N);  change_k = mean over the bin of H_final,t - H_base,t

    Bins are equal in number; equal entropies at an edge are cut by position in the corpus.

    Args:
        base: (N,) entropies under the first model, nats, teacher-forced on the same tokens.
        final: (N,) under the last.
        offsets: int (R + 1,).
        bins: 20 in the paper.
        cluster_R: problem of every response.
        level: coverage of the bands.

    Returns:
        The data. Tokens that are NaN under either model are left out; with fewer tokens than bins some are
        empty; all-equal base entropies make the bins arbitrary slices of the corpus.

    Raises:
        InputError: arrays that do not fit, or no token left.

    Source: arXiv 2506.01939 figure 4.

    >>> change_by_percentile([0.0, 1.0], [0.1, 3.0], [0, 1, 2], bins=2).change.value.tolist()
    [0.1, 2.0]
    """
    if bins < 1:
        raise InputError(f"percentiles are cut into 1 or more bins, not {bins}")
    data = tokens(offsets, base=base, final=final)
    base_N, order = data.value["base"], np.argsort(data.value["base"], kind="stable")
    bin_N = np.empty(data.count, dtype=np.int64)
    bin_N[order] = np.arange(data.count) * bins // data.count
    where = (data.response_N, data.responses, bin_N, bins)
    change_RK = table_by(*where, data.value["final"] - base_N)
    first_K = -(-np.arange(bins + 1) * data.count // bins)  # the first rank of each bin
    empty_K = first_K[1:] == first_K[:-1]
    ends = np.minimum(first_K, data.count - 1)
    ordered = base_N[order]
    return ChangeByPercentile(
        edges=np.linspace(0.0, 100.0, bins + 1),
        base_low=np.where(empty_K, np.nan, ordered[ends[:-1]]),
        base_high=np.where(empty_K, np.nan, ordered[np.maximum(first_K[1:] - 1, 0)]),
        change=ratio_band(change_RK, table_by(*where), cluster_R=cluster_R, level=level),
        tokens=data.count,
        responses=data.responses,
        left_out=data.left_out,
    )


def plot_change_by_percentile(
    found: ChangeByPercentile, *, name: str = "entropy-change", lower_bound: bool = False
) -> str:
    """Draw the change as bars with intervals, rises up and falls down, on a scale that is logarithmic beyond 1e-4."""
    figure, (axes,) = drawing.panels()
    value, width = found.change.value, np.diff(found.edges)
    middle = (found.edges[:-1] + found.edges[1:]) / 2
    for sign, color, hatch, label in ((1, BLUE, "", "entropy rose"), (-1, ORANGE, "///", "entropy fell")):
        rows = np.nan_to_num(value) * sign > 0
        if rows.any():
            axes.bar(
                middle[rows], value[rows], width[rows] * 0.86, facecolor=color if not hatch else "none",
                edgecolor=color, alpha=0.75, hatch=hatch, linewidth=0.8, label=label,
            )  # fmt: skip
    reach = np.vstack([value - found.change.low, found.change.high - value])
    reach = np.where(np.isfinite(reach), np.maximum(reach, 0), 0)
    axes.errorbar(
        middle, value, yerr=reach, fmt="none", color=drawing.INK, ecolor=drawing.INK, elinewidth=1.0, capsize=1.8
    )
    axes.set_yscale("symlog", linthresh=1e-4)
    axes.axhline(0.0, color=drawing.MUTED, linewidth=0.9)
    axes.set_xlim(found.edges[0], found.edges[-1])
    kind = ", from lower bounds" if lower_bound else ""
    drawing.finish(axes, "percentile of base entropy", f"mean change (nats, symlog){kind}")
    drawing.legend(figure, axes, 2)
    known = np.flatnonzero(np.isfinite(value))
    words = "; ".join(f"{found.edges[k]:g} to {found.edges[k + 1]:g}: {value[k]:+.4f}" for k in known[[0, -1]])
    return drawing.to_svg(figure, name, f"Mean entropy change by percentile of base entropy, in nats. {words}.")
