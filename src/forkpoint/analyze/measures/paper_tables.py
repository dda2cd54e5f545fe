"""The paper's two tables: overlap of high-entropy positions over checkpoints, and accuracy with length.

Source: arXiv 2506.01939, tables 1 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from forkpoint.analyze import drawing
from forkpoint.analyze.measures.bands import Interval, ratio_band
from forkpoint.analyze.measures.flat import Bools, Tokens, all_equal, check_share, sums_by, tokens, top_each, top_pooled
from forkpoint.errors import InputError
from forkpoint.evaluate.paired import paired_test
from forkpoint.evaluate.stats import Estimate, accuracy


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How many high-entropy positions one checkpoint shares with the base and the final model."""

    step: int
    base: Interval
    """Shared fraction of the top positions of the pooled corpus."""
    final: Interval
    base_each: Interval
    """The same with the top taken in every response; mean over responses."""
    final_each: Interval


@dataclass(frozen=True, kw_only=True)
class OverlapTable:
    """Overlap over checkpoints, and what chance alone would give."""

    rows: tuple[Overlap, ...]
    """Ascending in step."""
    share: float
    chance: float
    """Expected overlap of two random sets of the pooled size: k / N."""
    chance_each: float
    """Mean over responses of k_r / n_r; above `share` where answers are short, because k is rounded up."""
    tokens: int
    responses: int
    left_out: int
    """Tokens that are NaN under at least one model."""


def overlap_over_checkpoints(
    checkpoints: Mapping[int, ArrayLike],
    offsets: ArrayLike,
    *,
    share: float = 0.2,
    cluster_R: ArrayLike | None = None,
    level: float = 0.95,
) -> OverlapTable:
    """Return the overlap of top-share entropy positions with the first and the last checkpoint.

        overlap(A, B) = |top(A) ∩ top(B)| / k,  k = max(1, ceil(share N))

    All checkpoints are teacher-forced on the same tokens, answers of the final model. The paper does not say
    whether the share is taken over the pooled corpus or in every response; both are given. Intervals draw
    responses again and leave the selection as it is.

    Args:
        checkpoints: step to entropies (N,) in nats; the smallest step is the base, the largest the final model.
        offsets: int (R + 1,).
        share: in (0, 1].
        cluster_R: problem of every response.
        level: coverage.

    Returns:
        The table. With one checkpoint every overlap is 1.

    Raises:
        InputError: no checkpoint, arrays that do not fit, or all-equal entropies, which have no top.

    Source: arXiv 2506.01939 table 1; the share of chance is not in the paper.

    >>> found = overlap_over_checkpoints({0: [1.0, 0.0, 0.0, 2.0], 9: [1.0, 3.0, 0.0, 0.5]}, [0, 2, 4], share=0.5)
    >>> found.rows[1].base.value, found.rows[1].base_each.value, found.chance
    (0.5, 0.5, 0.5)
    """
    check_share(share)
    if not checkpoints:
        raise InputError("there is no checkpoint to compare: give the entropies of one or more steps")
    steps = sorted(checkpoints)
    data = tokens(offsets, **{f"step {step}": checkpoints[step] for step in steps})
    for name, value_N in data.value.items():
        if data.count > 1 and all_equal(value_N):
            raise InputError(f"all entropies of {name} are equal, so it has no high-entropy positions to compare")
    where = (data.response_N, data.responses)
    pooled = {step: top_pooled(data.value[f"step {step}"], share) for step in steps}
    each = {step: top_each(data.value[f"step {step}"], *where, share) for step in steps}
    size_R, count_R = sums_by(*where), sums_by(*where, each[steps[0]])
    rows = tuple(
        Overlap(
            step=step,
            base=_shared(data, pooled[step], pooled[steps[0]], False, cluster_R, level),
            final=_shared(data, pooled[step], pooled[steps[-1]], False, cluster_R, level),
            base_each=_shared(data, each[step], each[steps[0]], True, cluster_R, level),
            final_each=_shared(data, each[step], each[steps[-1]], True, cluster_R, level),
        )
        for step in steps
    )
    filled = size_R > 0
    return OverlapTable(
        rows=rows,
        share=share,
        chance=float(pooled[steps[0]].sum()) / data.count,
        chance_each=float((count_R[filled] / size_R[filled]).mean()),
        tokens=data.count,
        responses=data.responses,
        left_out=data.left_out,
    )


def _shared(
    data: Tokens, chosen: Bools, reference: Bools, each: bool, cluster_R: ArrayLike | None, level: float
) -> Interval:
    both_R = sums_by(data.response_N, data.responses, chosen & reference)
    size_R = sums_by(data.response_N, data.responses, reference)
    if each:  # every response with tokens counts once
        both_R, size_R = np.divide(both_R, size_R, out=np.zeros_like(both_R), where=size_R > 0), np.sign(size_R)
    return ratio_band(both_R, size_R, cluster_R=cluster_R, level=level).at(0)


def plot_overlap(found: OverlapTable, *, name: str = "overlap") -> str:
    """Draw overlap with base and final model over checkpoints, pooled and per response, with chance as a line."""
    figure, panels = drawing.panels(1, 2, size=(6.8, 3.1))
    steps = [row.step for row in found.rows]
    for axes, each, title in zip(panels, (False, True), ("pooled", "per response"), strict=True):
        for series, (label, side) in enumerate((("with base", "base"), ("with final", "final"))):
            values = [getattr(row, f"{side}_each" if each else side) for row in found.rows]
            bounds = {"low": [v.low for v in values], "high": [v.high for v in values]}
            drawing.line(axes, steps, [v.value for v in values], series, label, **bounds)
        level = found.chance_each if each else found.chance
        axes.axhline(level, color=drawing.MUTED, linestyle=":", linewidth=1.3, label="chance")
        axes.set_ylim(0.0, 1.03)
        drawing.percent(axes)
        drawing.finish(axes, drawing.STEP, "overlap" if not each else "", title=title)
    drawing.legend(figure, panels[0], 3)
    first, last = found.rows[0], found.rows[-1]
    words = f"With base {first.base.value:.1%} at step {first.step}, {last.base.value:.1%} at step {last.step}"
    return drawing.to_svg(
        figure, name, f"Overlap of the top {found.share:.0%} entropy positions. {words}; chance {found.chance:.1%}."
    )


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Judged answers to one benchmark."""

    problem: Sequence[Hashable]
    """Problem of every answer."""
    value: Sequence[float]
    """1 right, 0 wrong, NaN not judged."""
    length: Sequence[float]
    """Tokens of every answer."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One benchmark under two methods; differences are second minus first, paired by problem."""

    benchmark: str
    accuracy: tuple[Estimate, Estimate]
    length: tuple[Estimate, Estimate]
    """Tokens, mean over problems."""
    accuracy_difference: Estimate
    length_difference: Estimate


def compare_methods(
    first: Mapping[str, Answers], second: Mapping[str, Answers], *, level: float = 0.95
) -> tuple[Comparison, ...]:
    """Return accuracy and length of two methods on every benchmark both were run on, and the average.

    The average row is the plain mean over benchmarks; its error is sqrt(Σ error²) / benchmarks and its interval
    normal. None of the intervals covers the variation between training runs.

    Args:
        first: benchmark to answers, such as the method that learns from all tokens.
        second: the same benchmarks under the other method.
        level: coverage.

    Returns:
        One row a benchmark, in the order of `first`, then the row `average` if there are two or more.

    Raises:
        InputError: no benchmark or no problem in common.

    Source: arXiv 2506.01939 table 2; intervals of arXiv 2411.00640.
    """
    shared = [benchmark for benchmark in first if benchmark in second]
    if not shared:
        raise InputError("the two methods share no benchmark: evaluate both on the same ones")
    rows = []
    for benchmark in shared:
        a, b = first[benchmark], second[benchmark]
        pairs = [(side.problem, side.value, side.length) for side in (a, b)]
        rows.append(
            Comparison(
                benchmark=benchmark,
                accuracy=_pair(accuracy(p, v, level=level) for p, v, _ in pairs),
                length=_pair(accuracy(p, n, level=level) for p, _, n in pairs),
                accuracy_difference=paired_test(b.problem, b.value, a.problem, a.value, level=level).difference,
                length_difference=paired_test(b.problem, b.length, a.problem, a.length, level=level).difference,
            )
        )
    if len(rows) > 1:
        rows.append(
            Comparison(
                benchmark="average",
                accuracy=_pair(_average([row.accuracy[side] for row in rows], level) for side in (0, 1)),
                length=_pair(_average([row.length[side] for row in rows], level) for side in (0, 1)),
                accuracy_difference=_average([row.accuracy_difference for row in rows], level),
                length_difference=_average([row.length_difference for row in rows], level),
            )
        )
    return tuple(rows)


def _pair(values: Iterable[Estimate]) -> tuple[Estimate, Estimate]:
    first, second = values
    return first, second


def _average(estimates: Sequence[Estimate], level: float) -> Estimate:
    from scipy.stats import norm

    size = len(estimates)
    value = math.fsum(e.value for e in estimates) / size
    error = math.sqrt(math.fsum(e.error**2 for e in estimates)) / size
    half = float(norm.ppf(0.5 + level / 2)) * error
    return Estimate(
        value=value,
        low=value - half,
        high=value + half,
        error=error,
        problems=sum(e.problems for e in estimates),
        samples=sum(e.samples for e in estimates),
    )
