"""The figures that need the course of a run: entropy percentiles over training, and the law of its ceiling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from forkpoint.analyze.measures.ceiling import fit_law, plot_law
from forkpoint.analyze.measures.training_curves import percentiles_over_training, plot_percentiles_over_training
from forkpoint.analyze.rundata import RunData, series, step_of
from forkpoint.analyze.traces.parquet import read_batches
from forkpoint.analyze.views.analysis_page import drawn
from forkpoint.analyze.views.page import Panel
from forkpoint.errors import InputError

STEPS = 40
"""Steps whose percentiles are drawn, evenly spaced."""
STEP_TOKENS = 1 << 18
"""About how many tokens of each of them are looked at: the first so many."""
EVALUATIONS = 4
"""The law is fitted to evaluations where there are so many, else to training steps."""
_MOST_NATS = 100.0


def run_panels(run: RunData) -> list[Panel]:
    """Return the figures of a run; one that cannot be made leaves its reason in its place.

    Args:
        run: from `forkpoint.analyze.rundata.read_run`.
    """
    return [
        drawn(
            "Entropy percentiles over training",
            "Percentiles of token entropy at the steps whose rollouts were kept, each on its own scale, with 95 % "
            "bands over responses.",
            lambda: percentile_figure(run.rollout_files),
        ),
        drawn(
            "Entropy and performance",
            "The law R = -a exp(H) + b fitted to the run, and the performance it predicts when no entropy is left. "
            "The interval supposes that the law holds; where R² is small the ceiling means nothing, and far below the "
            "entropies seen it is a guess.",
            lambda: law_figure(run),
        ),
    ]


def spread_out(files: Sequence[Path], count: int = STEPS) -> list[Path]:
    """Return at most `count` evenly spaced files, the first and the last among them.

    >>> spread_out(list("abcde"), 3)
    ['a', 'c', 'e']
    """
    if len(files) <= count:
        return list(files)
    return [files[round(place * (len(files) - 1) / max(count - 1, 1))] for place in range(count)]


def percentile_figure(files: Sequence[Path]) -> tuple[str, str]:
    """Return entropy percentiles over the steps of some rollout files as SVG, and what its caption says of them.

    Raises:
        InputError: no file has an entropy; what is wrong with the first of them is said.
    """
    if not files:
        raise InputError("the run kept no rollouts: train with log.rollouts_every above 0")
    corpora: dict[int, tuple[NDArray[np.float32], NDArray[np.int64]]] = {}
    chosen, left_out, bound, cut = spread_out(files), [], False, False
    for path in chosen:
        try:
            batch = next(read_batches(path, columns=["entropy"], tokens=STEP_TOKENS), None)
        except InputError as error:
            left_out.append(f"{path.name} was left out: {str(error).replace(str(path), 'it')}.")
            continue
        if batch is None or not np.isfinite(batch.entropy_N).any():
            left_out.append(f"{path.name} was left out: no token of it has an entropy.")
            continue
        bound |= "lower-bound" in batch.entropy_kind
        cut |= batch.tokens >= STEP_TOKENS // 2
        corpora[step_of(path)] = batch.entropy_N, batch.offsets_R
    if not corpora:
        raise InputError(f"no rollout file has entropies. {left_out[0]}")
    svg = plot_percentiles_over_training(percentiles_over_training(corpora), lower_bound=bound)
    said = [f"Steps {', '.join(map(str, corpora)) if len(corpora) < 8 else _between(list(corpora))}."]
    if len(chosen) < len(files):
        said.append(f"{len(chosen)} of {len(files)} files, evenly spaced.")
    if cut:
        said.append(f"Of long files about the first {STEP_TOKENS:,} tokens.")
    return svg, " ".join([*said, *left_out])


def _between(steps: Sequence[int]) -> str:
    return f"{steps[0]} to {steps[-1]}, {len(steps)} of them"


def law_figure(run: RunData) -> tuple[str, str]:
    """Return the law between entropy and performance as SVG, and its numbers in words.

    Raises:
        InputError: there are too few steps, or their entropies do not vary.
    """
    bound = any("entropy_lower_bound/mean" in record for record in run.metrics)
    kind = "entropy_lower_bound" if bound else "entropy"
    entropy, performance = series(run.evaluations, f"eval/{kind}"), series(run.evaluations, "eval/accuracy")
    what, where = "accuracy", "evaluations"
    if (np.isfinite(entropy) & np.isfinite(performance)).sum() < EVALUATIONS:
        entropy, where = series(run.metrics, f"{kind}/mean"), "training steps"
        performance, what = series(run.metrics, "reward/right"), "share of right answers"
        if not np.isfinite(performance).any():
            performance, what = series(run.metrics, "reward/mean"), "mean reward"
    law = fit_law(np.where(entropy <= _MOST_NATS, entropy, np.nan), performance)
    seen = f"{law.entropy.min():.3f} to {law.entropy.max():.3f}"
    interval = f" ({law.ceiling.low:.3f} to {law.ceiling.high:.3f})" if math.isfinite(law.ceiling.low) else ""
    said = (
        f"Fitted to {law.entropy.size} {where}, R is the {what}: a = {law.a}, b = {law.b}, R² {law.r_squared:.2f}; "
        f"predicted ceiling {law.ceiling.value:.3f}{interval}, from entropies of {seen} nats."
    )
    if law.a.value <= 0:
        said += f" Here the {what} did not grow as entropy fell, so the law does not describe this run."
    elif what != "mean reward" and not 0 <= law.ceiling.value <= 1:
        said += f" The ceiling is outside what {'an' if what == 'accuracy' else 'a'} {what} can be."
    return plot_law(law, lower_bound=bound, performance=what), said
