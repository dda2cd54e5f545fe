"""What all analysis figures share: panels, axes, bands, and labels that cannot do harm."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike

from forkpoint.analyze import svg
from forkpoint.analyze.svg import BLUE, GREEN, GRID, INK, MUTED, ORANGE, PURPLE
from forkpoint.analyze.text import visible

_COLORS = (BLUE, ORANGE, GREEN, PURPLE, MUTED)
_STYLES = ("-", "--", "-.", ":", (0, (5, 1)))
_MARKERS = ("o", "s", "^", "D", "v")
# Colour, line and marker change together: a series is told apart without colour too.
SERIES = tuple(
    (color, _STYLES[(place + turn) % 5], _MARKERS[(place + turn) % 5])
    for turn in range(5)
    for place, color in enumerate(_COLORS)
)
"""Colour, line and marker of every series: as many as can look different."""
READABLE = len(_COLORS)
"""Series that differ in colour."""

STEP = "training step"
"""The label of an axis of whole numbers."""


def panels(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (5.7, 3.2), share_x: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a transparent figure and its axes, row by row."""
    figure = Figure(figsize=size, layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = list(figure.subplots(rows, columns, sharex=share_x, squeeze=False).ravel())
    for panel in axes:
        panel.patch.set_alpha(0.0)
    return figure, axes


def finish(axes: Axes, xlabel: str, ylabel: str, *, title: str = "", grid: bool = True) -> None:
    """Give one panel its labels and the style of the report."""
    if grid:
        axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8.5, length=3, color=MUTED)
    axes.tick_params(which="minor", colors=INK, color=MUTED)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)
    if xlabel == STEP:
        whole_steps(axes)
    axes.set_xlabel(plain(xlabel), color=INK, fontsize=9.5, parse_math=False)
    axes.set_ylabel(plain(ylabel), color=INK, fontsize=9.5, parse_math=False)
    if title:
        axes.set_title(plain(title), color=INK, fontsize=9.5, parse_math=False)


def whole_steps(axes: Axes) -> None:
    """Write whole numbers on the horizontal axis; a single step has room for one at both sides."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    low, high = axes.get_xlim()
    if high - low < 1:
        axes.set_xlim((low + high) / 2 - 1, (low + high) / 2 + 1)


def from_zero(axes: Axes, *values: ArrayLike) -> None:
    """Let the vertical axis go from 0 to a little above the largest of some values."""
    every = np.concatenate([np.asarray(value, dtype=np.float64).reshape(-1) for value in values])
    top = float(every[np.isfinite(every)].max(initial=0.0))
    axes.set_ylim(0.0, 1.1 * top if top > 0 else 1.0)


def legend(figure: Figure, axes: Axes, columns: int = 1) -> None:
    """Put the labels of one panel above the figure."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    drawn = figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        handlelength=2.8,
        fontsize=9,
        labelcolor=INK,
    )
    for text in drawn.get_texts():
        text.set_parse_math(False)


def line(
    axes: Axes, x: ArrayLike, y: ArrayLike, series: int, label: str, *, low: ArrayLike = (), high: ArrayLike = ()
) -> None:
    """Draw one series with its band; NaN is a gap, and more than 40 points carry no markers."""
    color, style, marker = SERIES[series % len(SERIES)]
    xs, ys, lows, highs = (np.asarray(value, dtype=np.float64) for value in (x, y, low, high))
    if lows.size:
        axes.fill_between(xs, lows, highs, color=color, alpha=0.18, linewidth=0)
    shown = marker if np.isfinite(ys).sum() <= 40 else ""
    axes.plot(xs, ys, color=color, linestyle=style, marker=shown, markersize=3.6, linewidth=1.7, label=named(label))


def points(axes: Axes, x: ArrayLike, y: ArrayLike, low: ArrayLike, high: ArrayLike, series: int, label: str) -> None:
    """Draw separate points with their intervals as whiskers."""
    color, _, marker = SERIES[series % len(SERIES)]
    ys, lows, highs = (np.asarray(value, dtype=np.float64) for value in (y, low, high))
    reach = np.vstack([ys - lows, highs - ys])
    reach = np.where(np.isfinite(reach), np.maximum(reach, 0.0), 0.0)
    axes.errorbar(
        np.asarray(x, dtype=np.float64), ys, yerr=reach, color=color, marker=marker, markersize=4.5,
        linestyle="none", elinewidth=1.3, capsize=2.5, label=named(label),
    )  # fmt: skip


def box(x: float, y: float, *, alpha: float) -> Rectangle:
    """Return a cell of a matrix around a point, the stronger the more opaque."""
    return Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=BLUE, alpha=alpha, linewidth=0)


def percent(axes: Axes, which: str = "y") -> None:
    """Write the ticks of an axis as percent."""
    getattr(axes, f"{which}axis").set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def plain(text: str, longest: int = 90) -> str:
    r"""Return text of anybody's as one visible line, cut at a number of characters.

    >>> plain("a\nb\x00")
    'a↵b⟨U+0000⟩'
    """
    shown = visible(str(text)).replace("\n", "↵").replace("\t", "⇥")
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def named(label: str) -> str:
    """Return the name of a series as a legend shows it: matplotlib hides those that begin with an underscore."""
    shown = plain(label)
    return f"\u2009{shown}" if shown.startswith("_") else shown


def to_svg(figure: Figure, name: str, label: str) -> str:
    """Return the figure as one `<svg>` element; what the label says of names from outside is made visible."""
    return svg.to_svg(figure, name, visible(label))


def entropy_axis(lower_bound: bool) -> str:
    """Return the label of an axis of entropies."""
    return "entropy, lower bound (nats)" if lower_bound else "entropy (nats)"
