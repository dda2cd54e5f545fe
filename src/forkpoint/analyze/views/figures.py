"""One function a figure: plain arrays in, one self-contained SVG string out.

Every figure is drawn through matplotlib's object interface, so nothing global changes. Text stays text, which
keeps files small and searchable; ids are prefixed with `name`, so several figures can share a page; nothing
depends on the time or the machine. Colours are CSS variables with a fallback: a page may restyle them for a
dark background, a file opened alone is drawn on the fallback colours. Missing values (NaN) are gaps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from forkpoint.analyze import drawing
from forkpoint.analyze.svg import BLUE, GREEN, to_svg

Values = Sequence[float] | NDArray[Any]


def accuracy(step: Values, mean: Values, low: Values, high: Values, *, name: str = "accuracy") -> str:
    """Draw accuracy on held-out problems over training steps, with its interval as a band.

    Args:
        step: Training steps of the evaluations, ascending.
        mean: Accuracy in [0, 1].
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
        name: Prefix of all ids in the SVG.

    Returns:
        An `<svg>` element as text.
    """
    figure, (axes,) = drawing.panels()
    steps, values, lows, highs = _arrays(step, mean, low, high)
    axes.fill_between(steps, lows, highs, color=BLUE, alpha=0.22, linewidth=0, label="95 % interval")
    drawing.line(axes, steps, values, 0, "accuracy")
    _shares(axes, values, lows, highs)
    _finish(figure, axes, "accuracy")
    return to_svg(figure, name, f"Accuracy on held-out problems. {_words('Accuracy', steps, values, '.1%')}")


def reward(step: Values, mean: Values, std: Values, *, name: str = "reward") -> str:
    """Draw the mean reward of every training batch, with one standard deviation as a band.

    Args:
        step: Training steps, ascending.
        mean: Mean reward of a batch.
        std: Standard deviation of the rewards of a batch.
        name: Prefix of all ids in the SVG.

    Returns:
        An `<svg>` element as text.
    """
    figure, (axes,) = drawing.panels()
    steps, values, spread = _arrays(step, mean, std)
    ends = (values - spread, values + spread)
    axes.fill_between(steps, *ends, color=GREEN, alpha=0.16, linewidth=0, label="± 1 std of answers")
    drawing.line(axes, steps, values, 2, "mean")
    _finish(figure, axes, "reward")
    return to_svg(figure, name, f"Reward in training. {_words('Mean reward', steps, values, '.3f')}")


def entropy(
    step: Values, mean: Values, quantiles: Mapping[str, Values], *, lower_bound: bool = False, name: str = "entropy"
) -> str:
    """Draw the mean and chosen quantiles of token entropy over training steps.

    Args:
        step: Training steps, ascending.
        mean: Mean entropy of response tokens in nats.
        quantiles: Label to values in nats, lowest quantile first.
        lower_bound: The values are lower bounds, and the figure says so.
        name: Prefix of all ids in the SVG.

    Returns:
        An `<svg>` element as text.
    """
    figure, (axes,) = drawing.panels()
    steps, values = _arrays(step, mean)
    for series, (label, quantile) in zip((3, 1, 2, 4), reversed(list(quantiles.items())), strict=False):
        drawing.line(axes, steps, quantile, series, label)
    drawing.line(axes, steps, values, 0, "mean")
    drawing.from_zero(axes, values, *quantiles.values())
    _finish(figure, axes, drawing.entropy_axis(lower_bound))
    what = f"{'Lower bound of token' if lower_bound else 'Token'} entropy over training."
    return to_svg(figure, name, f"{what} {_words('Mean', steps, values, '.3f')}")


def credited(step: Values, share: Values, threshold: Values, *, name: str = "credit") -> str:
    """Draw the share of response tokens that received credit and the lowest entropy among them.

    Args:
        step: Training steps, ascending.
        share: Share of response tokens in [0, 1].
        threshold: Lowest entropy of a credited token in nats.
        name: Prefix of all ids in the SVG.

    Returns:
        An `<svg>` element as text, two panels above each other.
    """
    figure, (above, below) = _two()
    steps, shares, thresholds = _arrays(step, share, threshold)
    drawing.line(above, steps, shares, 0, "share")
    _shares(above, shares)
    drawing.finish(above, "", "credited")
    drawing.line(below, steps, thresholds, 1, "threshold")
    drawing.from_zero(below, thresholds)
    drawing.finish(below, drawing.STEP, "threshold (nats)")
    label = f"{_words('Credited share', steps, shares, '.1%')} {_words('Threshold', steps, thresholds, '.3f')}"
    return to_svg(figure, name, f"Credited tokens. {label}")


def optimisation(step: Values, loss: Values, gradient: Values, *, name: str = "loss") -> str:
    """Draw the loss and the norm of the gradient over training steps.

    Args:
        step: Training steps, ascending.
        loss: Mean loss of a step's updates.
        gradient: Mean norm of the gradient before clipping.
        name: Prefix of all ids in the SVG.

    Returns:
        An `<svg>` element as text, two panels above each other.
    """
    figure, (above, below) = _two()
    steps, losses, norms = _arrays(step, loss, gradient)
    drawing.line(above, steps, losses, 0, "loss")
    drawing.finish(above, "", "loss")
    drawing.line(below, steps, norms, 1, "gradient")
    drawing.from_zero(below, norms)
    drawing.finish(below, drawing.STEP, "gradient norm")
    label = f"{_words('Loss', steps, losses, '.3f')} {_words('Gradient norm', steps, norms, '.3f')}"
    return to_svg(figure, name, f"Optimisation. {label}")


def response_length(step: Values, mean: Values, longest: Values, truncated: Values, *, name: str = "length") -> str:
    """Draw the length of answers and the share of them cut at the limit.

    Args:
        step: Training steps, ascending.
        mean: Mean number of tokens an answer.
        longest: Longest answer of every batch, in tokens.
        truncated: Share of answers cut at the limit, in [0, 1].
        name: Prefix of all ids in the SVG.

    Returns:
        An `<svg>` element as text, two panels above each other.
    """
    figure, (above, below) = _two()
    steps, means, tops, shares = _arrays(step, mean, longest, truncated)
    drawing.line(above, steps, tops, 4, "longest")
    drawing.line(above, steps, means, 0, "mean")
    drawing.from_zero(above, means, tops)
    drawing.finish(above, "", "tokens")
    drawing.legend(figure, above, 4)
    drawing.line(below, steps, shares, 1, "truncated")
    _shares(below, shares)
    drawing.finish(below, drawing.STEP, "cut at limit")
    label = f"{_words('Mean length', steps, means, '.1f')} {_words('Share cut', steps, shares, '.1%')}"
    return to_svg(figure, name, f"Length of answers in tokens. {label}")


def useful_groups(step: Values, useful: Values, resampled: Values, *, name: str = "groups") -> str:
    """Draw the share of groups with both right and wrong answers, and how many groups were drawn again.

    Args:
        step: Training steps, ascending.
        useful: Share of sampled groups that carry a signal, in [0, 1].
        resampled: Number of groups replaced by dynamic sampling.
        name: Prefix of all ids in the SVG.

    Returns:
        An `<svg>` element as text, two panels above each other.
    """
    figure, (above, below) = _two()
    steps, shares, counts = _arrays(step, useful, resampled)
    drawing.line(above, steps, shares, 2, "useful")
    _shares(above, shares)
    drawing.finish(above, "", "useful")
    drawing.line(below, steps, counts, 3, "drawn again")
    drawing.from_zero(below, counts)
    below.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    drawing.finish(below, drawing.STEP, "drawn again")
    label = f"{_words('Useful share', steps, shares, '.1%')} {_words('Drawn again', steps, counts, '.0f')}"
    return to_svg(figure, name, f"Useful groups. {label}")


def entropy_histogram(samples: Mapping[str, Values], *, lower_bound: bool = False, name: str = "histogram") -> str:
    """Draw histograms of token entropy with logarithmic counts, as the paper's figure 2a (arXiv:2506.01939).

    Args:
        samples: Label (such as `step 1`) to the entropies of all its tokens in nats; two at most read well.
        lower_bound: The values are lower bounds, and the figure says so.
        name: Prefix of all ids in the SVG.

    Returns:
        An `<svg>` element as text; the legend names the share below 0.01 and the 80th percentile of each.
    """
    figure, (axes,) = drawing.panels()
    arrays = {label: np.maximum(_arrays(values)[0], 0.0) for label, values in samples.items()}
    arrays = {label: values[np.isfinite(values)] for label, values in arrays.items()}
    arrays = {label: values for label, values in arrays.items() if values.size}
    top = max((float(values.max()) for values in arrays.values()), default=1.0)
    edges = np.linspace(0.0, max(top, 1e-3), 49)
    words = []
    for series, (label, values) in zip((1, 0, 2), arrays.items(), strict=False):
        color, style, _ = drawing.SERIES[series]
        below, cut = float((values < 0.01).mean()), float(np.quantile(values, 0.8))
        text = f"{label}: {100 * below:.1f} % below 0.01, 80th percentile {cut:.3f}"
        counts, _ = np.histogram(values, bins=edges)
        axes.stairs(counts, edges, color=color, fill=True, alpha=0.2, linewidth=0)
        axes.stairs(counts, edges, color=color, linewidth=1.4, linestyle=style, label=text)
        axes.axvline(cut, color=color, linewidth=1.1, linestyle=style)
        words.append(text)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.set_xlim(0.0, float(edges[-1]))
    label = f"{drawing.entropy_axis(lower_bound)}; vertical lines are the 80th percentiles"
    drawing.finish(axes, label, "tokens (log scale)")
    drawing.legend(figure, axes)
    what = f"Histogram of {'lower bounds of ' if lower_bound else ''}token entropy."
    return to_svg(figure, name, f"{what} {'. '.join(words)}.")


def _arrays(*values: Values) -> list[NDArray[np.float64]]:
    return [np.asarray(value, dtype=np.float64).reshape(-1) for value in values]


def _two() -> tuple[Figure, list[Axes]]:
    return drawing.panels(2, share_x=True)


def _shares(axes: Axes, *values: NDArray[np.float64]) -> None:
    """Write percent, from 0 to a little above the largest share."""
    every = np.concatenate(values)
    top = min(1.02, 1.12 * float(every[np.isfinite(every)].max(initial=0.0)))
    axes.set_ylim(0.0, max(top, 0.02) if np.isfinite(every).any() else 1.0)
    drawing.percent(axes)


def _finish(figure: Figure, axes: Axes, ylabel: str) -> None:
    drawing.finish(axes, drawing.STEP, ylabel)
    drawing.legend(figure, axes, 4)


def _words(what: str, steps: NDArray[np.float64], values: NDArray[np.float64], form: str) -> str:
    keep = np.isfinite(values)
    if not keep.any():
        return f"{what}: not recorded."
    first, last = steps[keep][[0, -1]]
    start, end = values[keep][[0, -1]]
    if first == last:
        return f"{what} {start:{form}} at step {first:.0f}."
    return f"{what} {start:{form}} at step {first:.0f}, {end:{form}} at step {last:.0f}."
