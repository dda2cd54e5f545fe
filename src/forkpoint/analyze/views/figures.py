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
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from forkpoint.analyze.svg import BLUE, GREEN, GRID, INK, MUTED, ORANGE, PURPLE, to_svg

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
    figure, (axes,) = _panels(1)
    steps, values, lows, highs = _arrays(step, mean, low, high)
    axes.fill_between(steps, lows, highs, color=BLUE, alpha=0.22, linewidth=0, label="95 % interval")
    _line(axes, steps, values, BLUE, "accuracy")
    axes.set_ylabel("accuracy")
    _percent(axes, np.concatenate([values, lows, highs]))
    _finish(axes)
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
    figure, (axes,) = _panels(1)
    steps, values, spread = _arrays(step, mean, std)
    axes.fill_between(
        steps,
        values - spread,
        values + spread,
        color=GREEN,
        alpha=0.16,
        linewidth=0,
        label="± 1 std of answers",
    )
    _line(axes, steps, values, GREEN, "mean")
    axes.set_ylabel("reward")
    _finish(axes)
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
    figure, (axes,) = _panels(1)
    steps, values = _arrays(step, mean)
    for (label, quantile), color, style in zip(
        reversed(list(quantiles.items())),
        (PURPLE, ORANGE, GREEN, MUTED),
        ("-.", "--", ":", ":"),
        strict=False,
    ):
        _line(axes, steps, _arrays(quantile)[0], color, label, style)
    _line(axes, steps, values, BLUE, "mean")
    axes.set_ylabel(_entropy_axis(lower_bound))
    _from_zero(axes, values, *quantiles.values())
    _finish(axes)
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
    figure, (above, below) = _panels(2)
    steps, shares, thresholds = _arrays(step, share, threshold)
    _line(above, steps, shares, BLUE, "share")
    above.set_ylabel("credited")
    _percent(above, shares)
    _finish(above, legend=False, last=False)
    _line(below, steps, thresholds, ORANGE, "threshold")
    below.set_ylabel("threshold (nats)")
    _from_zero(below, thresholds)
    _finish(below, legend=False)
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
    figure, (above, below) = _panels(2)
    steps, losses, norms = _arrays(step, loss, gradient)
    _line(above, steps, losses, BLUE, "loss")
    above.set_ylabel("loss")
    _finish(above, legend=False, last=False)
    _line(below, steps, norms, ORANGE, "gradient")
    below.set_ylabel("gradient norm")
    _from_zero(below, norms)
    _finish(below, legend=False)
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
    figure, (above, below) = _panels(2)
    steps, means, tops, shares = _arrays(step, mean, longest, truncated)
    _line(above, steps, tops, MUTED, "longest", ":")
    _line(above, steps, means, BLUE, "mean")
    above.set_ylabel("tokens")
    _from_zero(above, means, tops)
    _finish(above, last=False)
    _line(below, steps, shares, ORANGE, "truncated")
    below.set_ylabel("cut at limit")
    _percent(below, shares)
    _finish(below, legend=False)
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
    figure, (above, below) = _panels(2)
    steps, shares, counts = _arrays(step, useful, resampled)
    _line(above, steps, shares, GREEN, "useful")
    above.set_ylabel("useful")
    _percent(above, shares)
    _finish(above, legend=False, last=False)
    _line(below, steps, counts, PURPLE, "drawn again")
    below.set_ylabel("drawn again")
    _from_zero(below, counts)
    below.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    _finish(below, legend=False)
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
    figure, (axes,) = _panels(1)
    arrays = {label: np.maximum(_arrays(values)[0], 0.0) for label, values in samples.items()}
    arrays = {label: values[np.isfinite(values)] for label, values in arrays.items()}
    arrays = {label: values for label, values in arrays.items() if values.size}
    top = max((float(values.max()) for values in arrays.values()), default=1.0)
    edges = np.linspace(0.0, max(top, 1e-3), 49)
    words = []
    for (label, values), color, style in zip(arrays.items(), (ORANGE, BLUE, GREEN), ("--", "-", ":"), strict=False):
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
    axes.set_ylabel("tokens (log scale)")
    _finish(axes, xlabel=f"{_entropy_axis(lower_bound)}; vertical lines are the 80th percentiles")
    what = f"Histogram of {'lower bounds of ' if lower_bound else ''}token entropy."
    return to_svg(figure, name, f"{what} {'. '.join(words)}.")


def _entropy_axis(lower_bound: bool) -> str:
    return "entropy, lower bound (nats)" if lower_bound else "entropy (nats)"


def _arrays(*values: Values) -> list[NDArray[np.float64]]:
    return [np.asarray(value, dtype=np.float64).reshape(-1) for value in values]


def _panels(rows: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(5.7, 3.2), layout="constrained")
    figure.patch.set_alpha(0.0)
    grid = figure.subplots(rows, 1, sharex=True, squeeze=False)
    for axes in grid[:, 0]:
        axes.patch.set_alpha(0.0)
    return figure, list(grid[:, 0])


def _line(axes: Axes, x: Values, y: NDArray[np.float64], color: str, label: str, style: str = "-") -> None:
    # Markers make single and isolated points visible; on long curves they are noise and bytes.
    marker = "o" if np.isfinite(y).sum() <= 40 else ""
    axes.plot(x, y, color=color, label=label, linestyle=style, linewidth=1.8, marker=marker, markersize=3.2)


def _percent(axes: Axes, values: NDArray[np.float64]) -> None:
    finite = values[np.isfinite(values)]
    top = min(1.02, 1.12 * float(finite.max())) if finite.size else 1.0
    axes.set_ylim(0.0, max(top, 0.02))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def _from_zero(axes: Axes, *values: Values) -> None:
    finite = np.concatenate([array[np.isfinite(array)] for array in _arrays(*values)])
    axes.set_ylim(0.0, 1.1 * float(finite.max()) if finite.size and finite.max() > 0 else 1.0)


def _finish(axes: Axes, *, legend: bool = True, last: bool = True, xlabel: str = "training step") -> None:
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9, length=3, color=MUTED)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)
    axes.yaxis.label.set(color=INK, fontsize=9.5)
    if last:
        axes.set_xlabel(xlabel, color=INK, fontsize=9.5)
    if xlabel == "training step":
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        low, high = axes.get_xlim()
        if high - low < 1:  # a single step: room for whole numbers at both sides
            axes.set_xlim((low + high) / 2 - 1, (low + high) / 2 + 1)
    if legend and axes.get_legend_handles_labels()[1]:
        axes.figure.legend(
            *axes.get_legend_handles_labels(),
            loc="outside upper left",
            ncols=1 if xlabel != "training step" else 4,
            frameon=False,
            handlelength=2.8,
            fontsize=9,
            labelcolor=INK,
        )


def _words(what: str, steps: NDArray[np.float64], values: NDArray[np.float64], form: str) -> str:
    keep = np.isfinite(values)
    if not keep.any():
        return f"{what}: not recorded."
    first, last = steps[keep][[0, -1]]
    start, end = values[keep][[0, -1]]
    if first == last:
        return f"{what} {start:{form}} at step {first:.0f}."
    return f"{what} {start:{form}} at step {first:.0f}, {end:{form}} at step {last:.0f}."
