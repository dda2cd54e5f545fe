"""What a set of traces looks like: statistics of every token, figures of as many as fit, one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from forkpoint.analyze.rundata import read_run
from forkpoint.analyze.traces.sketch import quantiles
from forkpoint.analyze.traces.stats import TraceStats, batch_stats, merged_stats
from forkpoint.analyze.traces.trace import TraceBatch, Traces
from forkpoint.analyze.views.alarms import RunWarning, warnings_of
from forkpoint.analyze.views.analysis_page import write_analysis
from forkpoint.analyze.views.answers import Answer
from forkpoint.analyze.views.gaps import gaps
from forkpoint.analyze.views.held import hold
from forkpoint.analyze.views.page import Panel
from forkpoint.analyze.views.run_panels import run_panels
from forkpoint.analyze.views.summary import Fact
from forkpoint.analyze.views.trace_answers import answers_of_batch
from forkpoint.analyze.views.trace_panels import trace_panels
from forkpoint.errors import InputError

FIGURE_TOKENS = 2_000_000
"""Tokens that the figures look at: the first so many. The statistics see all of them."""
MIN_COUNT = 100
"""How often a token type must occur to be ranked (arXiv 2506.01939 sec. 3)."""
ANSWERS = 200


def analyse(
    traces: Traces,
    out: Path,
    *,
    figure_tokens: int = FIGURE_TOKENS,
    min_count: int = MIN_COUNT,
    extra: Sequence[Panel] = (),
    marker: str | None = None,
) -> TraceStats:
    """Write one HTML page about traces, and return the statistics of all their tokens.

    Memory is bounded by `figure_tokens` and one batch. A figure that cannot be made leaves its reason in its place.

    Args:
        traces: from `forkpoint.analyze.traces.sources.open_traces`.
        out: where to write the page.
        figure_tokens: tokens the figures look at.
        min_count: how often a token type must occur to be ranked.
        extra: figures made elsewhere, shown after its own.
        marker: text that ends the thinking phase, such as `</think>`, for responses whose phases are not labelled.

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
        if len(answers) < ANSWERS:
            answers += answers_of_batch(batch, source=Path(traces.about.name).name, count=ANSWERS - len(answers))
    stats = merged_stats(parts)
    if not parts or not stats.entropy.count:
        why = f" ({stats.notes[0]})" if stats.notes else ""
        raise InputError(
            f"{traces.about.name} holds no token with an entropy{why}: give log-probs of the likeliest tokens, or "
            "score the answers with a model (--score-with)"
        )
    tables, panels = trace_panels(hold(kept, marker=marker), lower_bound=stats.is_lower_bound, min_count=min_count)
    notes = [*traces.about.notes, *(str(note) for note in stats.notes)]
    if tokens < stats.tokens:
        notes.append(f"Figures look at the first {tokens:,} of {stats.tokens:,} tokens; the summary at all of them.")
    if traces.about.lacks:
        notes.append(f"The source does not say: {', '.join(traces.about.lacks)}.")
    warnings: list[RunWarning] = []
    if traces.about.kind == "run":
        run = read_run(Path(traces.about.name))
        panels += run_panels(run)
        notes += gaps(run)
        warnings = warnings_of(run.metrics)
    write_analysis(
        out, title=f"Where {Path(traces.about.name).name} forks", about=_about(traces, stats), panels=[*panels, *extra],
        facts=facts(stats), tables=tables, answers=answers, notes=notes, warnings=warnings,
    )  # fmt: skip
    return stats


def facts(stats: TraceStats) -> list[Fact]:
    """Return the lines of the summary."""
    p50, p80, p95 = quantiles(stats.entropy, [0.5, 0.8, 0.95])
    kind = "lower bound of the entropy" if stats.is_lower_bound else "entropy"
    tokens = f"{stats.tokens:,} token{'s' * (stats.tokens != 1)}"
    lines = [
        Fact(label="Responses", before=f"{stats.responses:,}", detail=tokens),
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


def _about(traces: Traces, stats: TraceStats) -> dict[str, str]:
    about = {"source": f"{traces.about.name} ({traces.about.kind})", "tokens": f"{stats.tokens:,}"}
    if traces.about.model:
        about["model"] = traces.about.model
    if traces.about.temperature is not None:
        about["temperature"] = f"{traces.about.temperature:g}"
    return about
