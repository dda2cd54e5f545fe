"""Figures of the measures of `sequence_measures`: one value an answer, a prompt or a step."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from forkpoint.analyze import drawing
from forkpoint.analyze.measures.bands import ratio_band
from forkpoint.analyze.measures.flat import positions, table_by
from forkpoint.analyze.measures.sequence import EntropyArea, EntropyReduction, SemanticEntropy
from forkpoint.errors import InputError


def plot_entropy_area(found: EntropyArea, *, name: str = "entropy-area") -> str:
    """Draw how the entropy area scores of responses are spread; responses with NaN are left out and counted."""
    known = found.area[np.isfinite(found.area)]
    figure, (axes,) = drawing.panels()
    words = "No response has a score"
    if known.size:
        counts, edges = np.histogram(known, bins=min(40, max(4, known.size // 4)))
        axes.stairs(counts, edges, color=drawing.BLUE, fill=True, alpha=0.35)
        axes.axvline(float(np.median(known)), color=drawing.ORANGE, linestyle="--", linewidth=1.3, label="median")
        words = f"Median {np.median(known):.3g} bits over {known.size} responses"
    drawing.finish(axes, "entropy area score (bits)", "responses")
    drawing.legend(figure, axes)
    return drawing.to_svg(figure, name, f"Entropy area scores. {words}; {found.area.size - known.size} left out.")


def plot_semantic_entropy(
    found: SemanticEntropy, accuracy_P: ArrayLike | None, *, name: str = "semantic-entropy"
) -> str:
    """Draw every prompt's semantic entropy against the share of its answers that are right.

    Prompts at the same place are drawn as one point whose area grows with their number.

    Args:
        found: from `semantic_entropy`.
        accuracy_P: (P,) in [0, 1], in the order of `found.prompts`; NaN where nothing was judged. None draws how
            many prompts have which entropy.
        name: prefix of all ids in the SVG.

    Returns:
        An `<svg>` element as text.

    Raises:
        InputError: as many accuracies as prompts are not given.
    """
    figure, (axes,) = drawing.panels()
    known = found.entropy[np.isfinite(found.entropy)]
    if accuracy_P is None:
        counts, edges = np.histogram(known, bins=24)
        axes.stairs(counts, edges, color=drawing.BLUE, fill=True, alpha=0.35)
        drawing.finish(axes, "semantic entropy (nats)", "problems")
    else:
        value = np.asarray(accuracy_P, dtype=np.float64)
        if value.shape != found.entropy.shape:
            raise InputError(f"{value.size} accuracies do not match {found.entropy.size} prompts: give one a prompt")
        spots, count = np.unique(np.stack([found.entropy, value], axis=1).round(6), axis=0, return_counts=True)
        axes.scatter(spots[:, 0], spots[:, 1], s=14.0 * count, color=drawing.BLUE, alpha=0.6, linewidth=0)
        axes.set_ylim(-0.05, 1.05)
        drawing.percent(axes)
        drawing.finish(axes, "semantic entropy (nats)", "right answers")
    mean = f"mean {known.mean():.3f} nats" if known.size else "none known"
    return drawing.to_svg(figure, name, f"Semantic entropy of {found.entropy.size} prompts: {mean}.")


def plot_entropy_reduction(found: EntropyReduction, *, most: int = 40, name: str = "entropy-reduction") -> str:
    """Draw the mean fall of the answer's entropy at every step, with a band over responses.

    Args:
        found: from `entropy_reduction`; NaN is left out.
        most: steps drawn.
        name: prefix of all ids in the SVG.

    Returns:
        An `<svg>` element as text.
    """
    step_N = positions(found.offsets)
    keep_N = np.isfinite(found.reduction) & (step_N < most)
    response_N = np.repeat(np.arange(found.total.size), np.diff(found.offsets))[keep_N]
    steps = int(step_N[keep_N].max()) + 1 if keep_N.any() else 0
    figure, (axes,) = drawing.panels()
    words = "No response has a step"
    if steps:
        where = (response_N, found.total.size, step_N[keep_N], steps)
        band = ratio_band(table_by(*where, found.reduction[keep_N]), table_by(*where))
        drawing.line(axes, np.arange(1, steps + 1), band.value, 0, "", low=band.low, high=band.high)
        words = f"Mean {band.value[0]:+.3f} nats at the first step, {band.value[-1]:+.3f} at step {steps}"
    axes.axhline(0.0, color=drawing.MUTED, linewidth=0.9)
    drawing.finish(axes, "reasoning step", "fall of the answer's entropy (nats)")
    return drawing.to_svg(figure, name, f"Fall of the answer's entropy by reasoning step. {words}.")
