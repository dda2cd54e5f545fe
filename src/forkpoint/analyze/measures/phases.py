"""Where entropy sits in an answer: by phase (thinking, answer) and by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from forkpoint.analyze import drawing
from forkpoint.analyze.measures.bands import Band, Interval, quantile_band, ratio_band
from forkpoint.analyze.measures.flat import Floats, Ints, check_offsets, positions, sums_by, table_by, tokens
from forkpoint.errors import InputError


def answer_starts(ids: ArrayLike, offsets: ArrayLike, marker: Sequence[int]) -> Ints:
    """Return where the answer phase of every response begins: right after the first marker.

    Args:
        ids: int (N,) token ids.
        offsets: int (R + 1,).
        marker: ids that end the thinking phase, such as those of `</think>`.

    Returns:
        int64 (R,), positions in the response; -1 where the marker never comes.

    Raises:
        InputError: an empty marker or offsets that do not fit.

    >>> answer_starts([5, 9, 7, 5, 5], [0, 3, 5], [9]).tolist()
    [2, -1]
    """
    ids_N = np.asarray(ids)
    bounds = check_offsets(offsets, ids_N.size)
    if len(marker) == 0:
        raise InputError("the marker that ends the thinking phase has no token: give its ids")
    size = len(marker)
    hit_N = np.zeros(ids_N.size, dtype=bool)
    if ids_N.size >= size:
        windows = np.lib.stride_tricks.sliding_window_view(ids_N, size)
        hit_N[: windows.shape[0]] = (windows == np.asarray(marker)).all(1)
    place_N = positions(bounds)
    length_R = np.diff(bounds)
    response_N = np.repeat(np.arange(length_R.size), length_R)
    hit_N &= place_N + size <= length_R[response_N]  # a marker does not reach over the end of its response
    found = np.flatnonzero(hit_N)
    rows, first = np.unique(response_N[found], return_index=True)
    starts_R = np.full(length_R.size, -1, dtype=np.int64)
    starts_R[rows] = place_N[found[first]] + size
    return starts_R


def text_answer_starts(texts: Sequence[str | None], offsets: ArrayLike, marker: str) -> Ints:
    """Return where the answer phase of every response begins: with the first token after the first marker.

    The marker may be spelled by several tokens, or be part of one; a token that holds the end of the marker and more
    still belongs to what came before.

    Args:
        texts: (N,) token texts; an unknown one (None) is taken as empty.
        offsets: int (R + 1,).
        marker: text that ends the thinking phase, such as `</think>`.

    Returns:
        int64 (R,), positions in the response, its length where nothing comes after the marker; -1 where the marker
        never comes.

    Raises:
        InputError: an empty marker or offsets that do not fit.

    >>> text_answer_starts(["so", "</", "think>", "4", "5"], [0, 4, 5], "</think>").tolist()
    [3, -1]
    """
    bounds = check_offsets(offsets, len(texts))
    if not marker:
        raise InputError("the marker that ends the thinking phase is empty: give its text, such as </think>")
    starts_R = np.full(bounds.size - 1, -1, dtype=np.int64)
    for response, (first, last) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
        words = [text or "" for text in texts[first:last]]
        at = "".join(words).find(marker)
        if at >= 0:
            ends = np.cumsum([len(word) for word in words])
            starts_R[response] = int(np.searchsorted(ends, at + len(marker))) + 1
    return starts_R


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Entropy in one phase of the answers."""

    name: str
    mean: Interval
    """Nats."""
    median: Interval
    cut: Interval
    """80th percentile, nats."""
    tokens: int
    responses: int
    """Responses with a token in this phase."""


def entropy_by_phase(
    entropy: ArrayLike,
    offsets: ArrayLike,
    answer_start_R: ArrayLike,
    *,
    known_R: ArrayLike | None = None,
    cluster_R: ArrayLike | None = None,
    level: float = 0.95,
) -> tuple[Phase, ...]:
    """Return entropy statistics of the thinking and of the answer phase.

    Args:
        entropy: (N,) nats; NaN is left out.
        offsets: int (R + 1,).
        answer_start_R: int (R,), from `answer_starts`; a response with -1 is all thinking.
        known_R: bool (R,), whose phases are known; all where not given.
        cluster_R: problem of every response.
        level: coverage.

    Returns:
        `thinking`, `answer`, and `whole answer` for responses whose phases are not known; a phase without tokens is
        not in the result.

    Raises:
        InputError: arrays that do not fit, or no token with a number.

    >>> [(p.name, p.mean.value) for p in entropy_by_phase([2.0, 4.0, 1.0], [0, 3], [2])]
    [('thinking', 3.0), ('answer', 1.0)]
    """
    bounds = check_offsets(offsets)
    start_R = np.asarray(answer_start_R, dtype=np.int64)
    if start_R.size != bounds.size - 1:
        raise InputError(f"{start_R.size} answer starts do not match {bounds.size - 1} responses: give one a response")
    data = tokens(bounds, entropy=entropy)
    place_N = positions(bounds) if data.kept_M is None else positions(bounds)[data.kept_M]
    known = np.ones(start_R.size, dtype=bool) if known_R is None else np.asarray(known_R, dtype=bool)
    if known.size != start_R.size:
        raise InputError(f"known_R has {known.size} entries for {start_R.size} responses: give one a response")
    start_N, known_N = start_R[data.response_N], known[data.response_N]
    answer_N = known_N & (start_N >= 0) & (place_N >= start_N)
    found = []
    for name, in_N in (("thinking", known_N & ~answer_N), ("answer", answer_N), ("whole answer", ~known_N)):
        if not in_N.any():
            continue
        value_N, response_N = data.value["entropy"][in_N], data.response_N[in_N]
        where = (value_N, response_N, data.responses)
        size_R = sums_by(response_N, data.responses)
        mean = ratio_band(sums_by(response_N, data.responses, value_N), size_R, cluster_R=cluster_R, level=level)
        quantiles = quantile_band(*where, [0.5, 0.8], cluster_R=cluster_R, level=level)
        found.append(
            Phase(
                name=name,
                mean=mean.at(0),
                median=quantiles.at(0),
                cut=quantiles.at(1),
                tokens=int(in_N.sum()),
                responses=int((size_R > 0).sum()),
            )
        )
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class ByPosition:
    """Mean entropy along the answer."""

    edges: Floats
    """(K + 1,): fractions of the answer in [0, 1], or token positions."""
    mean: Band
    """(K,) nats; NaN where no answer reaches."""
    tokens: Ints
    """(K,)."""
    relative: bool


def entropy_by_position(
    entropy: ArrayLike,
    offsets: ArrayLike,
    *,
    bins: int = 20,
    relative: bool = True,
    cluster_R: ArrayLike | None = None,
    level: float = 0.95,
) -> ByPosition:
    """Return mean entropy by position in the answer, with bands over responses.

        bin(t) = floor(bins * t / n_r) where relative, else floor(bins * t / max_r n_r),  t from 0

    Args:
        entropy: (N,) nats; NaN is left out and keeps its place.
        offsets: int (R + 1,).
        bins: K >= 1.
        relative: fractions of each answer rather than token positions. At late token positions only long answers
            are left.
        cluster_R: problem of every response.
        level: coverage.

    Raises:
        InputError: arrays that do not fit, or no token with a number.

    >>> entropy_by_position([1.0, 3.0, 5.0, 7.0], [0, 4], bins=2).mean.value.tolist()
    [2.0, 6.0]
    """
    if bins < 1:
        raise InputError(f"positions are cut into 1 or more bins, not {bins}")
    bounds = check_offsets(offsets)
    data = tokens(bounds, entropy=entropy)
    length_R = np.diff(bounds)
    place_N = positions(bounds) if data.kept_M is None else positions(bounds)[data.kept_M]
    span_N = length_R[data.response_N] if relative else int(length_R.max())
    where = (data.response_N, data.responses, place_N * bins // span_N, bins)
    count_RK = table_by(*where)
    mean = ratio_band(table_by(*where, data.value["entropy"]), count_RK, cluster_R=cluster_R, level=level)
    edges = np.linspace(0.0, 1.0 if relative else float(length_R.max()), bins + 1)
    return ByPosition(edges=edges, mean=mean, tokens=count_RK.sum(0).astype(np.int64), relative=relative)


def plot_phases(phases: Sequence[Phase], along: ByPosition, *, name: str = "phases", lower_bound: bool = False) -> str:
    """Draw mean, median and 80th percentile of each phase beside the mean along the answer."""
    figure, (left, right) = drawing.panels(1, 2, size=(6.8, 3.1))
    for place, phase in enumerate(phases):
        for series, (label, at) in enumerate(
            (("mean", phase.mean), ("median", phase.median), ("80th percentile", phase.cut))
        ):
            shown = label if place == 0 else ""
            drawing.points(left, [place + 0.18 * (series - 1)], [at.value], [at.low], [at.high], series, shown)
    left.set_xticks(range(len(phases)), [phase.name for phase in phases])
    left.set_xlim(-0.6, len(phases) - 0.4)
    left.set_ylim(bottom=-0.03 * left.get_ylim()[1])  # room for the marker of a median of 0
    drawing.finish(left, "", drawing.entropy_axis(lower_bound))
    middle = (along.edges[:-1] + along.edges[1:]) / 2
    drawing.line(right, middle, along.mean.value, 0, "", low=along.mean.low, high=along.mean.high)
    right.set_ylim(bottom=0.0)
    if along.relative:
        drawing.percent(right, "x")
    drawing.finish(right, "place in the answer" if along.relative else "token of the answer", "")
    drawing.legend(figure, left, 3)
    words = "; ".join(f"{phase.name}: mean {phase.mean.value:.3f}, median {phase.median.value:.3f}" for phase in phases)
    return drawing.to_svg(figure, name, f"Entropy by phase and position, nats. {words}.")
