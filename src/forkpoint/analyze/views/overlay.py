"""One metric of several runs in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from forkpoint.analyze import drawing
from forkpoint.analyze.rundata import series
from forkpoint.analyze.svg import BLUE, GREEN, MUTED, ORANGE, PURPLE, to_svg
from forkpoint.analyze.views.page import Panel

_COLORS = (BLUE, ORANGE, GREEN, PURPLE, MUTED)
_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MOST_RUNS = len(_COLORS) * len(_STYLES)
"""How many runs look different from each other."""


def overlay(
    names: Sequence[str],
    records: Sequence[Sequence[dict[str, Any]]],
    metric: str,
    title: str,
    caption: str,
    *,
    unit: str,
    band: tuple[str, str] | None = None,
    percent: bool = False,
) -> Panel:
    """Return one metric of several runs in one figure; runs without it are named below the figure.

    Args:
        names: of the runs.
        records: metric lines of every run.
        metric: a key of the lines, drawn over `step`.
        title: of the panel.
        caption: what the figure shows.
        unit: label of the vertical axis.
        band: keys of an interval's ends, drawn as a band.
        percent: values are shares.
    """
    curves = {name: (series(lines, "step"), series(lines, metric)) for name, lines in zip(names, records, strict=True)}
    absent = [name for name, (_, values) in curves.items() if not np.isfinite(values).any()]
    if len(absent) == len(names):
        return Panel(title=title, caption=caption, absent="None of the runs holds numbers for this figure.")
    figure, (axes,) = drawing.panels()
    for place, (name, lines) in enumerate(zip(names, records, strict=True)):
        steps, values = curves[name]
        if name in absent:
            continue
        # Colour and line change together: runs are told apart without colour too.
        color, style = _COLORS[place % len(_COLORS)], _STYLES[(place + place // len(_COLORS)) % len(_STYLES)]
        if band:
            axes.fill_between(steps, series(lines, band[0]), series(lines, band[1]), color=color, alpha=0.15, lw=0)
        marker = "o" if np.isfinite(values).sum() <= 40 else ""
        # A label with a leading underscore would be left out of the legend.
        axes.plot(steps, values, color=color, linestyle=style, marker=marker, markersize=3, linewidth=1.7,
                  label=f"\u2009{drawing.plain(name, 40)}")  # fmt: skip
    if percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    everything = np.concatenate([values[np.isfinite(values)] for _, values in curves.values()])
    low, high = min(0.0, float(everything.min())), max(0.0, float(everything.max()))
    room = 0.08 * (high - low) or 1.0
    axes.set_ylim(low - (room if low < 0 else 0.0), high + room)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    drawing.finish(axes, "training step", unit)
    drawing.legend(figure, axes, 1 if len(names) > 6 or max(map(len, names)) > 24 else min(3, len(names)))
    words = "; ".join(f"{name}: {_ends(values)}" for name, (_, values) in curves.items() if name not in absent)
    missing = f" Not recorded for {', '.join(absent)}." if absent else ""
    return Panel(
        title=title,
        caption=caption + missing,
        svg=to_svg(figure, f"over-{metric.replace('/', '-')}", drawing.plain(f"{title}. {words}.", 2000)),
    )


def _ends(values: NDArray[np.float64]) -> str:
    kept = values[np.isfinite(values)]
    return f"{kept[0]:.4g} to {kept[-1]:.4g}" if kept.size else "not recorded"
