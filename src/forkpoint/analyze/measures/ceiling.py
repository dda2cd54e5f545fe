"""The law between entropy and performance: a run's ceiling, predicted from how it spends its entropy.

Source: arXiv 2505.22617.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from forkpoint.analyze import drawing
from forkpoint.analyze.measures.bands import Interval
from forkpoint.analyze.measures.flat import Floats
from forkpoint.analyze.svg import MUTED
from forkpoint.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Law:
    """R = -a exp(H) + b, fitted."""

    a: Interval
    b: Interval
    ceiling: Interval
    """b - a: what the law predicts when no entropy is left."""
    r_squared: float
    """Share of the variance of R that the law explains; NaN where R does not vary."""
    autocorrelation: float
    """Of neighbouring residuals, in the order given; 0 where it was negative."""
    entropy: Floats
    """The points fitted, nats."""
    performance: Floats
    curve: tuple[Floats, Floats, Floats, Floats]
    """Entropy, predicted R, low and high of its mean, from 0 to the largest entropy."""
    left_out: int
    """Points without two numbers."""
    level: float


def fit_law(entropy: ArrayLike, performance: ArrayLike, *, level: float = 0.95) -> Law:
    r"""Return the least-squares fit of R = -a exp(H) + b over the steps of a run, and the ceiling b - a.

        x = exp(H);  a = -Σ (x - x̄)(R - R̄) / Σ (x - x̄)²;  b = R̄ + a x̄;  ceiling = R(H = 0) = b - a
        s² = Σ residual² / (n - 2);  var R(x₀) = s² [1/n + (x₀ - x̄)² / Σ (x - x̄)²]

    Steps of a run are not independent: with ρ > 0 the correlation of neighbouring residuals, variances are
    multiplied by (1 + ρ)/(1 - ρ) and n counts as n (1 - ρ)/(1 + ρ) in the degrees of freedom of Student's t. The
    interval is that of a law that holds; where the points do not lie on the curve (`r_squared`) the ceiling
    means nothing, and outside the range of entropies seen it is an extrapolation.

    Args:
        entropy: (S,) mean policy entropy at each step in nats, in order of the steps.
        performance: (S,) accuracy or reward at the same steps.
        level: coverage.

    Returns:
        The fit. Points with NaN are left out. With two points, or with so correlated residuals that fewer than
        three independent points remain, intervals are NaN.

    Raises:
        InputError: fewer than two points, all-equal entropies, or arrays of different lengths.

    Source: arXiv 2505.22617 section 2 (the fit); the intervals are ordinary regression theory.

    >>> law = fit_law([0.0, math.log(2.0), math.log(3.0)], [0.75, 0.5, 0.25])
    >>> round(law.a.value, 6), round(law.b.value, 6), round(law.ceiling.value, 6)
    (0.25, 1.0, 0.75)
    """
    h, r = (np.asarray(values, dtype=np.float64).reshape(-1) for values in (entropy, performance))
    if h.size != r.size:
        raise InputError(f"{h.size} entropies do not match {r.size} values of performance: give one of each a step")
    if not 0 < level < 1:
        raise InputError(f"the level of an interval is between 0 and 1, for example 0.95, not {level}")
    known = np.isfinite(h) & np.isfinite(r)
    h, r = h[known], r[known]
    if h.size < 2:
        raise InputError(f"the law needs two or more steps with entropy and performance, and there are {h.size}")
    if h.max() > 100:
        raise InputError(f"an entropy is {h.max():g}, too large to be nats: those are at most ln(vocabulary)")
    x = np.exp(h)
    spread = float(((x - x.mean()) ** 2).sum())
    if spread <= 1e-18 * float((x**2).sum()):
        raise InputError("all entropies are equal, so no law between entropy and performance can be fitted")
    deviation = r - r.mean() if np.ptp(r) > 0 else np.zeros_like(r)  # a mean of equal numbers may be off by rounding
    slope = float(((x - x.mean()) * deviation).sum()) / spread
    residual = deviation - slope * (x - x.mean())
    total = float((deviation**2).sum())
    rho, scale, half = _uncertainty(residual, total, level)

    def predicted(x0: Floats) -> tuple[Floats, Floats]:
        value = r.mean() + slope * (x0 - x.mean())
        return value, half * scale * np.sqrt(1 / x.size + (x0 - x.mean()) ** 2 / spread)

    (b, ceiling), (b_half, ceiling_half) = predicted(np.array([0.0, 1.0]))
    a_half = half * scale / math.sqrt(spread)
    grid = np.linspace(0.0, float(h.max()), 60)
    line, reach = predicted(np.exp(grid))
    return Law(
        a=Interval(value=-slope, low=-slope - a_half, high=-slope + a_half),
        b=Interval(value=float(b), low=float(b - b_half), high=float(b + b_half)),
        ceiling=Interval(value=float(ceiling), low=float(ceiling - ceiling_half), high=float(ceiling + ceiling_half)),
        r_squared=1 - float((residual**2).sum()) / total if total > 0 else math.nan,
        autocorrelation=rho,
        entropy=h,
        performance=r,
        curve=(grid, line, line - reach, line + reach),
        left_out=int((~known).sum()),
        level=level,
    )


def _uncertainty(residual: Floats, total: float, level: float) -> tuple[float, float, float]:
    """Return the residuals' autocorrelation, their standard deviation widened by it, and Student's factor."""
    from scipy.stats import t as student

    size, square = residual.size, float((residual**2).sum())
    if size < 3:
        return 0.0, math.nan, math.nan
    if square <= 1e-24 * total:  # a perfect fit: what is left is rounding and has no correlation to speak of
        return 0.0, 0.0, float(student.ppf(0.5 + level / 2, size - 2))
    rho = min(max(0.0, float((residual[1:] * residual[:-1]).sum()) / square), 0.999)
    widen = (1 + rho) / (1 - rho)
    freedom = size / widen - 2
    if freedom <= 0:
        return rho, math.nan, math.nan
    return rho, math.sqrt(square / (size - 2) * widen), float(student.ppf(0.5 + level / 2, freedom))


def plot_law(law: Law, *, name: str = "ceiling", lower_bound: bool = False, performance: str = "performance") -> str:
    """Draw the steps, the fitted law with its band, and the predicted ceiling at entropy 0."""
    figure, (axes,) = drawing.panels()
    grid, value, low, high = law.curve
    text = f"R = {-law.a.value:.3f} exp(H) {law.b.value:+.3f},  R² {law.r_squared:.2f}"
    drawing.line(axes, grid, value, 1, text, low=low, high=high)
    axes.scatter(law.entropy, law.performance, s=14, color=drawing.BLUE, label="steps", zorder=3)
    top = law.ceiling
    drawing.points(axes, [0.0], [top.value], [top.low], [top.high], 2, f"ceiling {top}")
    axes.axvline(0.0, color=MUTED, linewidth=0.8)
    drawing.finish(axes, f"{drawing.entropy_axis(lower_bound)}, mean of a step", performance)
    drawing.legend(figure, axes)
    return drawing.to_svg(figure, name, f"Law between entropy and performance. {text}. Predicted ceiling {top}.")
