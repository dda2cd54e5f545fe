"""One metric of several runs in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forkpoint.analyze import drawing
from forkpoint.analyze.rundata import series
from forkpoint.analyze.svg import to_svg
from forkpoint.analyze.views.page import Panel

MOST_RUNS = len(drawing.SERIES)
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
        ends = {"low": series(lines, band[0]), "high": series(lines, band[1])} if band else {}
        drawing.line(axes, steps, values, place, drawing.plain(name, 40), **ends)
    if percent:
        drawing.percent(axes)
    drawn = [values for _, values in curves.values()]
    drawn += [series(lines, end) for lines in records for end in band or ()]
    everything = np.concatenate([values[np.isfinite(values)] for values in drawn])
    low, high = min(0.0, float(everything.min())), max(0.0, float(everything.max()))
    room = 0.08 * (high - low) or 1.0
    axes.set_ylim(low - (room if low < 0 else 0.0), high + room)
    drawing.finish(axes, drawing.STEP, unit)
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
