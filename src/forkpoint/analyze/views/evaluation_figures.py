"""Figures of a comparison of evaluations: forest plot, pass@k curves with bands, per-problem scatter."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from forkpoint.analyze import drawing
from forkpoint.analyze.svg import INK, MUTED
from forkpoint.analyze.views.page import Panel
from forkpoint.evaluate.compare import Comparison, Measured, Pair
from forkpoint.evaluate.stats import Estimate

MOST_CIRCLES = 400
"""Different pairs of values up to which a scatter is drawn one circle each; more are put on a grid."""


def forest(found: Comparison) -> Panel:
    """Return every value with its interval, one row a system and benchmark."""
    rows = [
        (_at(one.name, benchmark), one.accuracy, place)
        for benchmark, systems in found.benchmarks.items()
        for place, one in enumerate(systems)
    ]
    caption = f"Mean over problems with its {100 * found.level:g} % interval."
    return _forest("Accuracy", caption, "ev-forest", rows, zero=False)


def difference_forest(found: Comparison) -> Panel:
    """Return every difference to the first system with its interval, a line at no difference."""
    place = {one.name: i for systems in found.benchmarks.values() for i, one in enumerate(systems)}
    rows = [
        (_at(f"{pair.second} − {pair.first}", pair.benchmark), pair.test.difference, place[pair.second])
        for pair in found.pairs
    ]
    caption = (
        f"Difference on shared problems with its {100 * found.level:g} % interval; an interval that leaves out the "
        "line at 0 is a difference beyond chance."
    )
    return _forest("Difference", caption, "ev-difference", rows, zero=True)


def pass_curves(benchmark: str, systems: Sequence[Measured]) -> Panel:
    """Return pass@k over k with its intervals as bands."""
    title = _at("pass@k", benchmark)
    curves = [
        (
            place,
            one,
            {int(name[5:]): value for name, value in one.metrics.estimates.items() if name.startswith("pass@")},
        )
        for place, one in enumerate(systems)
    ]
    caption = "Chance that one of k answers is right (unbiased estimate), with intervals over problems."
    if not any(len(curve) > 1 for _, _, curve in curves):
        return Panel(title=title, caption=caption, absent="One answer a problem gives pass@1 alone.")
    figure, (axes,) = drawing.panels()
    said, most = [], 1
    for place, one, curve in curves:
        if not curve:
            continue
        ks, points = list(curve), list(curve.values())
        most = max(most, *ks)
        drawing.line(
            axes, ks, [p.value for p in points], place, drawing.plain(one.name, 40),
            low=[p.low for p in points], high=[p.high for p in points],
        )  # fmt: skip
        said.append(f"{one.name}: {points[0].value:.3g} at 1 to {points[-1].value:.3g} at {ks[-1]}")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([1 << e for e in range(most.bit_length())]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    drawing.percent(axes)
    drawing.finish(axes, "k answers", "solved")
    drawing.legend(figure, axes, 1 if len(systems) > 3 else len(systems))
    if any(one.seeds > 1 for _, one, _ in curves):
        caption += " Of the first training seed where there are several."
    return Panel(title=title, caption=caption, svg=_svg(figure, f"ev-pass-{benchmark}", f"{title}. {'; '.join(said)}."))


def scatter(pair: Pair, first: Measured, second: Measured) -> Panel:
    """Return the value of every shared problem in both systems; the area of a circle is how many problems it holds."""
    title = _at(f"{pair.second} against {pair.first}", pair.benchmark)
    at = dict(zip(second.problems, second.values.tolist(), strict=True))
    both = [(x, at[name]) for name, x in zip(first.problems, first.values.tolist(), strict=True) if name in at]
    places = Counter(point for point in both if not any(map(math.isnan, point)))
    if len(places) > MOST_CIRCLES:
        grid: Counter[tuple[float, float]] = Counter()
        for (x, y), count in places.items():
            grid[round(20 * x) / 20, round(20 * y) / 20] += count
        places = grid
    test = pair.test
    caption = (
        f"One problem is better answered above the line: {test.better:,} by {pair.second}, {test.worse:,} by "
        f"{pair.first}, {test.difference.problems - test.better - test.worse:,} alike."
    )
    figure, (axes,) = drawing.panels(size=(5.7, 4.6))
    xs, ys = (np.array([point[i] for point in places]) for i in (0, 1))
    area = np.array(list(places.values()), float)
    color, _, _ = drawing.SERIES[0]
    low, high = min(0.0, xs.min(), ys.min()), max(1.0, xs.max(), ys.max())
    axes.plot([low, high], [low, high], color=MUTED, linewidth=1.0)
    axes.scatter(xs, ys, s=np.maximum(12.0, 900.0 * area / area.max()), color=color, alpha=0.45, linewidth=0)
    for (x, y), count in places.most_common(12):
        if count > 1:
            axes.annotate(f"{count}", (x, y), ha="center", va="center", fontsize=8.5, color=INK)
    room = 0.09 * (high - low)
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(low - room, high + room)
    if (low, high) == (0.0, 1.0):
        drawing.percent(axes, "x")
        drawing.percent(axes, "y")
    drawing.finish(axes, pair.first, pair.second)
    return Panel(title=title, caption=caption, svg=_svg(figure, f"ev-scatter-{title}", f"{title}. {caption}"))


def _forest(title: str, caption: str, name: str, rows: Sequence[tuple[str, Estimate, int]], *, zero: bool) -> Panel:
    figure, (axes,) = drawing.panels(size=(5.7, 1.2 + 0.34 * len(rows)))
    for height, (label, value, series) in enumerate(rows):
        _whiskers(axes, len(rows) - 1 - height, value, series, label)
    if zero:
        axes.axvline(0.0, color=MUTED, linewidth=1.0)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_yticks(range(len(rows)), [drawing.plain(label, 40) for label, _, _ in reversed(rows)])
    for tick in axes.get_yticklabels():
        tick.set_parse_math(False)
    ends = [end for _, value, _ in rows for end in (value.low, value.high, value.value)]
    if all(-1 <= end <= 1 or math.isnan(end) for end in ends):
        drawing.percent(axes, "x")
    drawing.finish(axes, "difference" if zero else "mean value", "")
    words = "; ".join(f"{label}: {v.value:.3g} ({v.low:.3g} to {v.high:.3g})" for label, v, _ in rows)
    return Panel(title=title, caption=caption, svg=_svg(figure, name, f"{title}. {words}."))


def _whiskers(axes: Axes, height: float, value: Estimate, series: int, label: str) -> None:
    color, _, marker = drawing.SERIES[series % len(drawing.SERIES)]
    if math.isfinite(value.low):
        axes.plot([value.low, value.high], [height, height], color=color, linewidth=1.6, solid_capstyle="butt")
    axes.plot([value.value], [height], color=color, marker=marker, markersize=5.5, label=drawing.named(label))


def _at(text: str, benchmark: str) -> str:
    return f"{text}, {benchmark}" if benchmark else text


def _svg(figure: object, name: str, label: str) -> str:
    """Draw; ids are made of letters and digits alone, whatever the systems are called."""
    plain = "".join(char if char.isascii() and char.isalnum() else f"-{ord(char):x}-" for char in name)
    return drawing.to_svg(figure, plain, drawing.plain(label, 2000))  # type: ignore[arg-type]
