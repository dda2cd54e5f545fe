"""`forkpoint analyze`: arguments to studies, a page, and lines or JSON."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forkpoint.cli_text import json_text
from forkpoint.errors import InputError

if TYPE_CHECKING:
    from forkpoint.analyze.studies.asked import Changes, Studied
    from forkpoint.analyze.traces.trace import Traces

_READING, _DRAWING = "How a source is read", "How answers are drawn"
_STUDIES = "Studies that run the model (SOURCE is a run, or a model with --prompts)"


def analyze(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A run, a trace or dump, or (--prompts) a model.")],
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Of a run: how training moved entropies.", rich_help_panel=_STUDIES)
    ] = False,
    temperatures: Annotated[
        str | None,
        typer.Option(
            "--temperatures", metavar="T,T", help="Accuracy at these, of forks and of others.", rich_help_panel=_STUDIES
        ),
    ] = None,
    divergence: Annotated[
        int | None,
        typer.Option(
            "--divergence", metavar="N", help="Write N answers anew from forks and elsewhere.", rich_help_panel=_STUDIES
        ),
    ] = None,
    forced: Annotated[
        int | None,
        typer.Option(
            "--forced", metavar="N", help="Force the final answer on N unfinished answers.", rich_help_panel=_STUDIES
        ),
    ] = None,
    share: Annotated[
        float, typer.Option("--share", help="Of tokens that count as most uncertain.", rich_help_panel=_STUDIES)
    ] = 0.2,
    verifier: Annotated[
        str | None,
        typer.Option(
            "--verifier", help="With --prompts: math (default), exact, sequence or countdown.", rich_help_panel=_STUDIES
        ),
    ] = None,
    extraction: Annotated[
        str | None,
        typer.Option(
            "--extraction", help="With --prompts: where a final answer stands; boxed.", rich_help_panel=_STUDIES
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="Sample SOURCE, a model, with these problems.", rich_help_panel=_DRAWING),
    ] = None,
    problems: Annotated[
        int | None, typer.Option("--problems", help="The first so many of them.", rich_help_panel=_DRAWING)
    ] = None,
    group: Annotated[
        int | None, typer.Option("--group", help="Answers to each problem; 8.", rich_help_panel=_DRAWING)
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="Longest answer; 1024.", rich_help_panel=_DRAWING)
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Of the samples; 1.", rich_help_panel=_DRAWING)
    ] = None,
    template: Annotated[
        str | None,
        typer.Option("--template", help="auto, none, chat, boxed, or text with {question}.", rich_help_panel=_DRAWING),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the samples; 0.", rich_help_panel=_DRAWING)] = None,
    score_with: Annotated[
        str | None,
        typer.Option(
            "--score-with", help="Model that reads the answers for exact entropies.", rich_help_panel=_READING
        ),
    ] = None,
    part: Annotated[
        str, typer.Option("--part", help="Of a run: rollouts or evals.", rich_help_panel=_READING)
    ] = "rollouts",
    entropy_kind: Annotated[
        str | None,
        typer.Option(
            "--entropy-kind", help="Of a file that does not say: exact or lower-bound.", rich_help_panel=_READING
        ),
    ] = None,
    marker: Annotated[
        str | None,
        typer.Option("--marker", help="Text that ends the thinking, such as </think>.", rich_help_panel=_READING),
    ] = None,
    min_count: Annotated[
        int,
        typer.Option("--min-count", help="Token types must occur more often than this.", rich_help_panel=_READING),
    ] = 100,
    save: Annotated[Path | None, typer.Option("--save", help="Write the trace here as well (parquet).")] = None,
    out: Annotated[Path, typer.Option("--out", help="Where to write the page.")] = Path("analysis.html"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show where a model, a run or a trace forks: one HTML page.

    forkpoint analyze runs/demo --checkpoints

    forkpoint analyze models/countdown --prompts problems.jsonl --template none
    """
    for name, value, valid in (
        ("--part", part, ("rollouts", "evals")),
        ("--entropy-kind", entropy_kind, (None, "exact", "lower-bound")),
    ):
        if value not in valid:
            raise InputError(f"{name} {value!r} is none of {', '.join(str(word) for word in valid if word)}")
    from forkpoint.analyze.studies.asked import Changes, asked_for, studied
    from forkpoint.train.files import output_path

    read = [path for path in (source, prompts) if path is not None and Path(path).is_file()]
    for path in (out, *([save] if save is not None else [])):
        output_path(path, read)
    asked = asked_for(
        checkpoints=checkpoints, temperatures=temperatures, divergence=divergence, forced=forced, share=share
    )
    changes = Changes(
        problems=problems, group=group, max_tokens=max_tokens, temperature=temperature, template=template, seed=seed
    )
    for name, word in (("verifier", verifier), ("extraction", extraction)):
        if word is not None and not asked.names:
            raise InputError(f"--{name} {word} is for the studies: ask for one, such as --divergence 64")
    found = None
    try:
        if asked.names:
            found = studied(
                source, asked, changes, prompts=prompts, verifier=verifier, extraction=extraction,
                say=lambda line: typer.echo(line, err=True),
            )  # fmt: skip
        traces = _traces(
            source, found, changes, prompts=prompts, score_with=score_with, part=part, entropy_kind=entropy_kind
        )
        _page(traces, found, out=out, save=save, min_count=min_count, marker=marker, as_json=as_json)
    finally:
        if found is not None:
            found.close()


def _traces(
    source: str,
    found: Studied | None,
    changes: Changes,
    *,
    prompts: Path | None,
    score_with: str | None,
    part: str,
    entropy_kind: str | None,
) -> Traces:
    """Return what the page is about: the answers the studies drew from a model, else the source."""
    if found is not None and found.traces is not None:
        return found.traces
    from forkpoint.analyze.traces.sampling import ModelSettings
    from forkpoint.analyze.traces.sources import open_traces
    from forkpoint.tasks.readers import read_prompts

    asked = None if prompts is None else read_prompts(prompts, answer=None, limit=changes.problems)
    return open_traces(
        source, prompts=asked, settings=ModelSettings(**changes.given(), attention=True), score_with=score_with,
        entropy_kind=entropy_kind, part=part,  # type: ignore[arg-type]
    )  # fmt: skip


def _page(
    traces: Traces,
    found: Studied | None,
    *,
    out: Path,
    save: Path | None,
    min_count: int,
    marker: str | None,
    as_json: bool,
) -> None:
    from forkpoint.analyze.traces.parquet import write_traces
    from forkpoint.analyze.traces.sources import open_traces
    from forkpoint.analyze.views.overview import analyse, facts

    if save is not None:
        write_traces(save, traces, traces.about)
        # Read from the file, named as what it was made from: a run has figures that a trace has not.
        traces = dataclasses.replace(open_traces(save), about=traces.about)
    studies = () if found is None else found.studies
    panels = [panel for study in studies for panel in study.panels]
    stats = analyse(traces, out, min_count=min_count, extra=panels, marker=marker)
    if as_json:
        said: dict[str, Any] = {fact.label: " ".join(filter(None, (fact.before, fact.detail))) for fact in facts(stats)}
        if found is not None:
            said |= {"studied": found.about, "studies": {study.name: study.numbers for study in studies}}
        typer.echo(json_text({"page": str(out), **said}))
        return
    for fact in facts(stats):
        typer.echo(f"{fact.label}: {fact.before}" + (f" ({fact.detail})" if fact.detail else ""))
    for line in (line for study in studies for line in study.lines):
        typer.echo(line)
    typer.echo(f"page  {out}")
