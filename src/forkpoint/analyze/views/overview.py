"""What a set of traces looks like: statistics of every token, figures of as many as fit, one page."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forkpoint.analyze.measures.agreement import advantage_mass, agreement, plot_agreement, surprisal
from forkpoint.analyze.measures.paper_figures import entropy_histogram, plot_entropy_histogram
from forkpoint.analyze.measures.phases import entropy_by_phase, entropy_by_position, plot_phases
from forkpoint.analyze.measures.quadrants import plot_quadrants, quadrants
from forkpoint.analyze.measures.token_types import TokenType, plot_word_cloud, token_types
from forkpoint.analyze.traces.sketch import quantiles
from forkpoint.analyze.traces.stats import TraceStats, batch_stats, merged_stats
from forkpoint.analyze.traces.trace import ANSWERING, TraceBatch, Traces
from forkpoint.analyze.views.analysis_page import write_analysis
from forkpoint.analyze.views.answers import Answer
from forkpoint.analyze.views.page import Numbers, Panel
from forkpoint.analyze.views.summary import Fact
from forkpoint.analyze.views.trace_answers import answers_of_batch
from forkpoint.errors import InputError

FIGURE_TOKENS = 2_000_000
"""Tokens that the figures look at: the first so many. The statistics see all of them."""
MIN_COUNT = 100
"""How often a token type must occur to be ranked (arXiv 2506.01939 sec. 3)."""
ANSWERS = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Held:
    """The tokens that the figures look at, flat."""

    offsets: NDArray[np.int64]
    entropy: NDArray[np.float32]
    logp: NDArray[np.float32]
    advantage: NDArray[np.float32]
    """NaN where not known."""
    labels: list[str] | NDArray[np.int64]
    """Texts, or ids where some token has no text."""
    answer_start: NDArray[np.int64]
    """First token of the answer phase of every response, -1 where not known."""
    problem: NDArray[np.int64]
    """A number for every problem: intervals are over problems."""


def analyse(traces: Traces, out: Path, *, figure_tokens: int = FIGURE_TOKENS, min_count: int = MIN_COUNT) -> TraceStats:
    """Write one HTML page about traces, and return the statistics of all their tokens.

    Memory is bounded by `figure_tokens` and one batch. A figure that cannot be made leaves its reason in its place.

    Args:
        traces: from `forkpoint.analyze.traces.sources.open_traces`.
        out: where to write the page.
        figure_tokens: tokens the figures look at.
        min_count: how often a token type must occur to be ranked.

    Raises:
        InputError: the source holds no token with an entropy, or the page cannot be written.
    """
    parts: list[TraceStats] = []
    kept: list[TraceBatch] = []
    answers: list[Answer] = []
    tokens = 0
    for batch in traces:
        parts.append(batch_stats(batch))
        if tokens < figure_tokens:
            kept.append(batch)
            tokens += batch.tokens
        if not answers:
            answers = answers_of_batch(batch, source=Path(traces.about.name).name, count=ANSWERS)
    stats = merged_stats(parts)
    if not parts or not stats.entropy.count:
        raise InputError(
            f"{traces.about.name} holds no token with an entropy: give log-probs of the likeliest tokens, or score the "
            "answers with a model (--score-with)"
        )
    held, bound = hold(kept), stats.is_lower_bound
    tables, panels = _figures(held, bound, min_count)
    notes = [*traces.about.notes, *(str(note) for note in stats.notes)]
    if tokens < stats.tokens:
        notes.append(f"Figures look at the first {tokens:,} of {stats.tokens:,} tokens; the summary at all of them.")
    if traces.about.lacks:
        notes.append(f"The source does not say: {', '.join(traces.about.lacks)}.")
    write_analysis(
        out, title=f"Where {Path(traces.about.name).name} forks", about=_about(traces, stats), panels=panels,
        facts=facts(stats), tables=tables, answers=answers, notes=notes,
    )  # fmt: skip
    return stats


def facts(stats: TraceStats) -> list[Fact]:
    """Return the lines of the summary."""
    p50, p80, p95 = quantiles(stats.entropy, [0.5, 0.8, 0.95])
    kind = "lower bound of the entropy" if stats.is_lower_bound else "entropy"
    lines = [
        Fact(label="Responses", before=f"{stats.responses:,}", detail=f"{stats.tokens:,} tokens"),
        Fact(
            label=f"80th percentile of the {kind}",
            before=f"{p80:.3f} nats",
            detail=f"median {p50:.3f}, 95th percentile {p95:.3f}",
        ),
    ]
    judged = {name: count for name, count in stats.verdicts.items() if name in ("right", "wrong")}
    if judged:
        share = judged.get("right", 0) / sum(judged.values())
        lines.append(Fact(label="Right", before=f"{share:.1%}", detail=f"of {sum(judged.values()):,} judged answers"))
    return lines


def hold(batches: Sequence[TraceBatch]) -> Held:
    """Return the tokens of some batches as flat arrays."""
    lengths = np.concatenate([np.diff(batch.offsets_R) for batch in batches])
    named = all(bool((batch.text_N >= 0).all()) for batch in batches)
    labels: Any
    if named:
        labels = [batch.texts[index] for batch in batches for index in batch.text_N]
    else:
        labels = np.concatenate([batch.id_N for batch in batches]).astype(np.int64)
    names = [
        name or f"{number}/{response}"
        for number, batch in enumerate(batches)
        for response, name in enumerate(batch.prompt_id)
    ]
    return Held(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        entropy=np.concatenate([batch.entropy_N for batch in batches]),
        logp=np.concatenate([batch.logp_N for batch in batches]),
        advantage=np.concatenate([_or_nan(batch.advantage_N, batch.tokens) for batch in batches]),
        labels=labels,
        answer_start=np.concatenate([_answer_starts(batch) for batch in batches]),
        problem=np.unique(names, return_inverse=True)[1].astype(np.int64),
    )


def _figures(held: Held, bound: bool, min_count: int) -> tuple[dict[str, Numbers], list[Panel]]:
    tables: dict[str, Numbers] = {}
    cluster = held.problem

    def histogram() -> str:
        found = entropy_histogram(held.entropy, held.offsets, cluster_R=cluster)
        return plot_entropy_histogram({"tokens": found}, lower_bound=bound)

    def cloud() -> str:
        found = token_types(held.labels, held.entropy, held.offsets, min_count=min_count)
        tables[f"Most uncertain token types (more than {min_count} occurrences)"] = _ranking(found.most)
        tables[f"Least uncertain token types (more than {min_count} occurrences)"] = _ranking(found.least)
        return plot_word_cloud(found.most, title="Most uncertain token types")

    def along() -> str:
        phases = entropy_by_phase(held.entropy, held.offsets, held.answer_start, cluster_R=cluster)
        places = entropy_by_position(held.entropy, held.offsets, cluster_R=cluster)
        return plot_phases(phases, places, lower_bound=bound)

    def signs() -> str:
        known = np.isfinite(held.advantage)
        if not known.any():
            raise InputError("the source does not say the advantage")
        mass = advantage_mass(held.logp, held.advantage)
        found = quadrants(held.entropy, held.advantage, mass, held.offsets, cluster_R=cluster)
        return plot_quadrants(found, lower_bound=bound)

    def other_rules() -> str:
        scores: dict[str, Any] = {"entropy": held.entropy, "surprisal": surprisal(held.logp)}
        if np.isfinite(held.advantage).all():
            scores["|advantage| (1 - p)"] = advantage_mass(held.logp, held.advantage)
        return plot_agreement(agreement(scores, held.offsets, cluster_R=cluster))

    return tables, [
        _panel("Entropy of tokens", "Counts on a logarithmic axis; the line is the 80th percentile.", histogram),
        _panel("Token types by mean entropy", "The most uncertain types; the tables below rank both ends.", cloud),
        _panel("Entropy along the answer", "Left: phases, where the source says them. Right: by position.", along),
        _panel("Advantage sign and entropy", "Shares of tokens, entropy and gradient size.", signs),
        _panel("Would other rules pick the same tokens?", "Rank correlation and Jaccard index.", other_rules),
    ]


def _panel(title: str, caption: str, draw: Callable[[], str]) -> Panel:
    """Return the panel, or its reason where it cannot be drawn: the rest of the page still comes out."""
    try:
        return Panel(title=title, caption=caption, svg=draw())
    except InputError as error:
        return Panel(title=title, caption=caption, absent=f"Not drawn: {error}.")


def _ranking(types: Sequence[TokenType]) -> Numbers:
    rows = [
        [str(kind.token), f"{kind.count:,}", f"{kind.entropy:.3f}", f"{kind.low:.3f} to {kind.high:.3f}"]
        for kind in types
    ]
    return Numbers(columns=["token", "count", "mean entropy, nats", "95 %"], rows=rows, total=len(rows))


def _about(traces: Traces, stats: TraceStats) -> dict[str, str]:
    about = {"source": f"{traces.about.name} ({traces.about.kind})", "tokens": f"{stats.tokens:,}"}
    if traces.about.model:
        about["model"] = traces.about.model
    if traces.about.temperature is not None:
        about["temperature"] = f"{traces.about.temperature:g}"
    return about


def _or_nan(values: NDArray[Any] | None, tokens: int) -> NDArray[np.float32]:
    return np.full(tokens, np.nan, np.float32) if values is None else np.asarray(values, np.float32)


def _answer_starts(batch: TraceBatch) -> NDArray[np.int64]:
    if batch.phase_N is None:
        return np.full(batch.responses, -1, np.int64)
    starts = []
    for response in range(batch.responses):
        at = np.flatnonzero(batch.phase_N[batch.span(response)] == ANSWERING)
        starts.append(int(at[0]) if at.size else -1)
    return np.array(starts, np.int64)
