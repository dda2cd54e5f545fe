"""What two decoding temperatures, one for forking tokens and one for the others, do to accuracy.

Source: arXiv 2506.01939, figure 3.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from forkpoint.analyze import drawing
from forkpoint.analyze.svg import MUTED
from forkpoint.errors import InputError
from forkpoint.evaluate.paired import paired_test
from forkpoint.evaluate.stats import Estimate, accuracy


@dataclass(frozen=True, kw_only=True)
class TemperaturePoint:
    """Accuracy at one temperature."""

    temperature: float
    accuracy: Estimate
    difference: Estimate | None
    """Against the reference temperatures, paired by problem; None for the reference itself or without one."""


@dataclass(frozen=True, kw_only=True)
class TemperatureCurves:
    """Accuracy while one temperature varies and the other stays at the reference."""

    reference: float
    fork: tuple[TemperaturePoint, ...]
    """The temperature of forking tokens varies; ascending."""
    other: tuple[TemperaturePoint, ...]
    """The temperature of all other tokens varies; ascending."""


Judged = tuple[Sequence[Hashable], Sequence[float]]
"""Problem and value (1 right, 0 wrong, NaN not judged) of every answer."""


def temperature_curves(
    results: Mapping[tuple[float, float], Judged], *, reference: float = 1.0, level: float = 0.95
) -> TemperatureCurves:
    """Return accuracy against the temperature of forking and of other tokens, each with the other held still.

    Args:
        results: (t_fork, t_other) to the judged answers decoded with them.
        reference: the temperature that stays.
        level: coverage of the intervals.

    Returns:
        Two curves; results in which neither temperature is the reference are on neither.

    Raises:
        InputError: no result on either curve.

    Source: arXiv 2506.01939 figure 3; intervals clustered by problem (arXiv 2411.00640).
    """
    curves: list[tuple[TemperaturePoint, ...]] = []
    base = results.get((reference, reference))
    for side in (0, 1):
        found = []
        for pair in sorted(results):
            if pair[1 - side] != reference:
                continue
            problems, values = results[pair]
            compared = (
                None
                if base is None or pair == (reference, reference)
                else paired_test(problems, values, *base, level=level)
            )
            found.append(
                TemperaturePoint(
                    temperature=pair[side],
                    accuracy=accuracy(problems, values, level=level),
                    difference=compared.difference if compared else None,
                )
            )
        curves.append(tuple(found))
    if not any(curves):
        raise InputError(f"no result was decoded with one temperature at {reference}: decode one or set `reference`")
    return TemperatureCurves(reference=reference, fork=curves[0], other=curves[1])


def plot_temperature_curves(found: TemperatureCurves, *, name: str = "temperatures") -> str:
    """Draw both curves over a symmetric-log axis of temperature, as the paper does."""
    figure, (axes,) = drawing.panels()
    words = []
    for series, (label, curve) in enumerate((("other tokens", found.other), ("forking tokens", found.fork))):
        estimates = [point.accuracy for point in curve]
        drawing.line(
            axes,
            [point.temperature for point in curve],
            [e.value for e in estimates],
            series,
            f"temperature of {label} varies",
            low=[e.low for e in estimates],
            high=[e.high for e in estimates],
        )
        words += [f"{label} at {p.temperature:g}: {p.accuracy.value:.1%}" for p in curve]
    axes.set_xscale("symlog", linthresh=0.2)
    ticks = sorted({point.temperature for point in (*found.fork, *found.other)})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.axvline(found.reference, color=MUTED, linestyle=":", linewidth=1.1)
    axes.set_ylim(bottom=0.0)
    drawing.percent(axes)
    drawing.finish(axes, f"decoding temperature (the other stays at {found.reference:g})", "accuracy")
    drawing.legend(figure, axes)
    return drawing.to_svg(figure, name, f"Accuracy against decoding temperature. {'; '.join(words)}.")
