"""The paper's curves over training: entropy percentiles, and arms that learn from different shares of tokens.

Source: arXiv 2506.01939, figures 1b and 5 to 11.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike

from forkpoint.analyze import drawing
from forkpoint.analyze.measures.bands import Band, Interval, quantile_band
from forkpoint.analyze.measures.flat import Floats, tokens
from forkpoint.analyze.rundata import RunData, series
from forkpoint.errors import InputError
from forkpoint.evaluate.stats import Estimate, unpaired_difference

PERCENTILES = (0.0, 20.0, 40.0, 60.0, 80.0, 100.0)
"""The paper draws six panels and does not name their percentiles; these are evenly spaced."""


@dataclass(frozen=True, kw_only=True)
class PercentilesOverTraining:
    """Percentiles of token entropy at several steps."""

    steps: tuple[int, ...]
    percentiles: tuple[float, ...]
    value: tuple[Band, ...]
    """One band over the S steps for every percentile, nats."""
    tokens: tuple[int, ...]
    """Tokens at each step."""


def percentiles_over_training(
    corpora: Mapping[int, tuple[ArrayLike, ArrayLike]],
    *,
    percentiles: Sequence[float] = PERCENTILES,
    level: float = 0.95,
) -> PercentilesOverTraining:
    """Return percentiles of entropy at every step of a run, with bands over that step's responses.

    Args:
        corpora: step to (entropy (N,) in nats, offsets (R + 1,)).
        percentiles: in [0, 100]; the extremes 0 and 100 have no interval.
        level: coverage.

    Raises:
        InputError: no step, or one without a token that has a number; the message names the step.

    Source: arXiv 2506.01939 figure 5.

    >>> percentiles_over_training({3: ([1.0, 2.0, 3.0], [0, 2, 3])}, percentiles=[50]).value[0].value.tolist()
    [2.0]
    """
    if not corpora:
        raise InputError("there is no step to draw percentiles of: give the entropies of one or more steps")
    steps = tuple(sorted(corpora))
    bands, counts = [], []
    for step in steps:
        try:
            data = tokens(corpora[step][1], entropy=corpora[step][0])
        except InputError as error:
            raise InputError(f"step {step}: {error}") from error
        q_P = np.asarray(percentiles, dtype=np.float64) / 100
        bands.append(quantile_band(data.value["entropy"], data.response_N, data.responses, q_P, level=level))
        counts.append(data.count)
    by_percentile = tuple(
        Band(
            value=np.array([band.value[p] for band in bands]),
            low=np.array([band.low[p] for band in bands]),
            high=np.array([band.high[p] for band in bands]),
        )
        for p in range(len(percentiles))
    )
    return PercentilesOverTraining(
        steps=steps, percentiles=tuple(float(p) for p in percentiles), value=by_percentile, tokens=tuple(counts)
    )


def plot_percentiles_over_training(
    found: PercentilesOverTraining, *, name: str = "entropy-percentiles", lower_bound: bool = False
) -> str:
    """Draw one small panel a percentile, each with its own scale, as the paper does."""
    columns = min(3, len(found.percentiles))
    rows = -(-len(found.percentiles) // columns)
    figure, axes = drawing.panels(rows, columns, size=(6.6, 1.9 * rows))
    words = []
    for panel, (q, band) in enumerate(zip(found.percentiles, found.value, strict=True)):
        drawing.line(axes[panel], found.steps, band.value, 0, "", low=band.low, high=band.high)
        bottom = panel >= (rows - 1) * columns
        axes[panel].xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        # A common factor above the axis would run into the title.
        axes[panel].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        left = "nats" + (", lower bound" if lower_bound else "")
        ylabel = left if panel % columns == 0 else ""
        drawing.finish(axes[panel], drawing.STEP if bottom else "", ylabel, title=f"percentile {q:g}")
        words.append(f"Percentile {q:g}: {band.value[0]:.3f} to {band.value[-1]:.3f}")
    for unused in axes[len(found.percentiles) :]:
        unused.set_visible(False)
    return drawing.to_svg(figure, name, f"Entropy percentiles over training, in nats. {'. '.join(words)}.")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One run of an ablation. All series are float64, NaN where nothing was recorded."""

    label: str
    share: float
    """Share of tokens that learns, in (0, 1]."""
    step: Floats
    """(S,) steps of the evaluations, ascending."""
    accuracy: Floats
    low: Floats
    high: Floats
    length: Floats
    """Mean tokens an answer at the evaluations."""
    train_step: Floats
    """(U,) steps of training."""
    entropy: Floats
    """Mean entropy over all tokens of a training batch, nats: also those that do not learn."""


def arm_of_run(run: RunData, *, label: str, share: float) -> Arm:
    """Return what an ablation needs of a run directory.

    Args:
        run: from `read_run`.
        label: name of the arm.
        share: share of tokens that learns.

    Raises:
        InputError: the run has neither evaluations nor metrics.
    """
    if not run.evaluations and not run.metrics:
        raise InputError(f"the run {run.path.name} has no metrics yet, so it cannot be an arm of an ablation")
    low_high = (series(run.evaluations, "eval/accuracy_low"), series(run.evaluations, "eval/accuracy_high"))
    return Arm(
        label=label,
        share=share,
        step=series(run.evaluations, "step"),
        accuracy=series(run.evaluations, "eval/accuracy"),
        low=low_high[0],
        high=low_high[1],
        length=series(run.evaluations, "eval/length"),
        train_step=series(run.metrics, "step"),
        entropy=series(run.metrics, "entropy/mean"),
    )


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """Where an arm ended."""

    label: str
    share: float
    step: float
    accuracy: Interval
    difference: Interval
    """Against the arm that learns from all tokens; NaN without one."""
    length: float
    entropy: float
    """Mean over the last tenth of the recorded training steps, nats."""


def share_ablation(arms: Sequence[Arm]) -> tuple[ArmResult, ...]:
    """Return the last evaluation of every arm and its difference from learning on all tokens.

    The interval of the difference is Newcombe's, from the arms' own intervals: problems are not paired here, and
    variation between seeds is not in it.

    Args:
        arms: two or more runs; the one with `share` 1 is what the others are compared with.

    Returns:
        One result an arm, ascending in share; NaN where an arm was never evaluated.

    Raises:
        InputError: no arm, or two arms that learn from all tokens.

    Source: arXiv 2506.01939 figure 7 (shares 0.1, 0.2, 0.5, 1, and the bottom 0.8).
    """
    if not arms:
        raise InputError("an ablation needs one or more runs: give their arms")
    full = [arm for arm in arms if arm.share == 1]
    if len(full) > 1:
        raise InputError(f"{len(full)} arms learn from all tokens: keep the one to compare with")
    reference = _last(full[0]) if full else (math.nan,) * 4
    found = []
    for arm in sorted(arms, key=lambda arm: (arm.share, arm.label)):
        step, value, low, high = _last(arm)
        compared = bool(full) and arm is not full[0]
        difference = unpaired_difference(reference[1:], (value, low, high)) if compared else (math.nan,) * 3
        known = arm.entropy[np.isfinite(arm.entropy)]
        lengths = arm.length[np.isfinite(arm.length)]
        found.append(
            ArmResult(
                label=arm.label,
                share=arm.share,
                step=step,
                accuracy=Interval(value=value, low=low, high=high),
                difference=Interval(value=difference[0], low=difference[1], high=difference[2]),
                length=float(lengths[-1]) if lengths.size else math.nan,
                entropy=float(known[-max(1, known.size // 10) :].mean()) if known.size else math.nan,
            )
        )
    return tuple(found)


def _last(arm: Arm) -> tuple[float, float, float, float]:
    known = np.flatnonzero(np.isfinite(arm.accuracy))
    if known.size == 0:
        return (math.nan,) * 4
    at = int(known[-1])
    return float(arm.step[at]), float(arm.accuracy[at]), float(arm.low[at]), float(arm.high[at])


def smoothed(values: ArrayLike, window: int) -> Floats:
    """Return the mean of the last `window` values at every point, fewer at the start; NaN is left out of it.

    Source: arXiv 2506.01939 figure 9 smooths with a window of 10.

    >>> smoothed([1.0, 3.0, float("nan"), 5.0], 2).tolist()
    [1.0, 2.0, 3.0, 5.0]
    """
    if window < 1:
        raise InputError(f"a window holds 1 or more values, not {window}")
    array = np.asarray(values, dtype=np.float64)
    known = np.isfinite(array)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, array, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    ends = np.arange(1, array.size + 1)
    starts = np.maximum(ends - window, 0)
    size = counts[ends] - counts[starts]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(size > 0, (sums[ends] - sums[starts]) / size, np.nan)


def plot_arms(
    arms: Sequence[Arm],
    *,
    window: int = 1,
    shown: Sequence[str] = ("accuracy", "length", "entropy"),
    name: str = "share-ablation",
    lower_bound: bool = False,
) -> str:
    """Draw accuracy, answer length and overall entropy of several runs over training.

    Args:
        arms: the runs; five read well.
        window: points averaged in accuracy and length (`smoothed`); bands are drawn only unsmoothed.
        shown: panels, of `accuracy`, `length`, `entropy`.
        name: prefix of all ids in the SVG.
        lower_bound: the entropies are lower bounds.

    Returns:
        An `<svg>` element as text: figures 6, 7, 9, 10 and 11 of the paper are choices of arms and panels.
    """
    labels = {"accuracy": "accuracy", "length": "tokens an answer", "entropy": drawing.entropy_axis(lower_bound)}
    if not shown or set(shown) - set(labels):
        raise InputError(f"panels are accuracy, length and entropy, not {list(shown)}")
    figure, panels = drawing.panels(1, len(shown), size=(2.5 * len(shown) + 0.7, 2.9))
    for axes, kind in zip(panels, shown, strict=True):
        for index, arm in enumerate(arms):
            x, y = (arm.train_step, arm.entropy) if kind == "entropy" else (arm.step, getattr(arm, kind))
            bounds = {"low": arm.low, "high": arm.high} if kind == "accuracy" and window == 1 else {}
            drawing.line(axes, x, y if kind == "entropy" else smoothed(y, window), index, arm.label, **bounds)
        if kind == "accuracy":
            drawing.percent(axes)
        drawing.finish(axes, drawing.STEP, "", title=labels[kind])
    drawing.legend(figure, panels[0], min(4, max(1, len(arms))))
    ends = (f"{arm.label}: {_last(arm)[1]:.1%} at step {_last(arm)[0]:.0f}" for arm in arms)
    return drawing.to_svg(figure, name, f"Runs over training. {'; '.join(ends)}.")


def plot_accuracy_by_size(
    methods: Mapping[str, Sequence[tuple[float, Estimate]]], *, name: str = "accuracy-by-size"
) -> str:
    """Draw accuracy with intervals against the number of parameters, one series a method (figures 1b and 8).

    Args:
        methods: label to (parameters in billions, accuracy) of each model.
        name: prefix of all ids in the SVG.

    Returns:
        An `<svg>` element as text.
    """
    figure, (axes,) = drawing.panels()
    words = []
    for index, (label, found) in enumerate(methods.items()):
        ordered = sorted(found, key=lambda point: point[0])
        estimates = [estimate for _, estimate in ordered]
        sizes = [size for size, _ in ordered]
        bounds = {"low": [e.low for e in estimates], "high": [e.high for e in estimates]}
        drawing.line(axes, sizes, [e.value for e in estimates], index, label, **bounds)
        words += [f"{label}, {size:g} B: {e.value:.1%}" for size, e in ordered]
    axes.set_xscale("log")
    ticks = sorted({size for found in methods.values() for size, _ in found})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    drawing.percent(axes)
    drawing.finish(axes, "parameters (billions)", "accuracy")
    drawing.legend(figure, axes, 2)
    return drawing.to_svg(figure, name, f"Accuracy by model size. {'; '.join(words)}.")
