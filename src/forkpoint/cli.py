"""The command line: a thin layer that reads arguments, calls the library and tells errors in one line.

Nothing heavy is imported before a command runs, so that `forkpoint --help` answers at once.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from forkpoint.cli_text import accuracy_text, grade_summary, grade_text, methods_text
from forkpoint.errors import ForkpointError, InputError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Which tokens should learn? Token-level credit for reinforcement learning with verifiable rewards.",
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML file; see recipes/.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change: train.lr=1e-4")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Run the command line."""
    # OpenMP threads that spin while they wait make a run dozens of times slower as soon as another process wants
    # one of the cores; sleeping costs little. It has to be set before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app(prog_name="forkpoint")


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with its errors told in one line and an exit code.

    Mistakes of the user exit with their own code, a keyboard interrupt with 130. `FORKPOINT_TRACEBACK=1`
    shows the traceback as well. An error that is none of these is a defect and keeps its traceback.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            _say(f"interrupted: {_again()}")
            raise typer.Exit(130) from None
        except Exception as error:
            told = _told(error)
            if told is None or os.environ.get("FORKPOINT_TRACEBACK") == "1":
                raise
            _say(f"error: {told[0]}")
            raise typer.Exit(told[1]) from None

    return run


@app.command()
@guarded
def train(
    recipe: RecipePath,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print recipe, chain and size; write nothing.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest checkpoint.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move an old run of that name aside.")] = False,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of run directories.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Train with a recipe, or show with --dry-run what it would do."""
    from forkpoint.train.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    if dry_run:
        from forkpoint.train.dryrun import plan, render

        account = plan(loaded)
        typer.echo(_json(account) if as_json else render(account), nl=as_json)
        return
    run_dir = _run_dir(runs / loaded.name, resume=resume, fresh=fresh)
    from forkpoint.analyze.views.report import report as write_report
    from forkpoint.train.loop import train as run_training

    result = run_training(loaded, run_dir=run_dir, resume=resume, fresh=fresh)
    page = write_report(run_dir)
    if as_json:
        typer.echo(_json({"result": result, "report": page}))
        return
    for when, metrics in (("before", result.before), ("after", result.after)):
        if metrics is not None:
            typer.echo(f"{when:<6}  {accuracy_text(metrics)}")
    typer.echo(f"report  {page}")


@app.command()
@guarded
def sft(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="JSONL: text, prompt + response, or messages.")],
    model: Annotated[str, typer.Option("--model", help="Directory or hub name to start from.")],
    steps: Annotated[int, typer.Option("--steps", help="Updates to make.")],
    name: Annotated[str, typer.Option("--name", help="Names the run directory.")] = "sft",
    rows: Annotated[int, typer.Option("--rows", help="Examples an update.")] = 32,
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate.")] = 1e-5,
    warmup: Annotated[int, typer.Option("--warmup", help="Updates over which the rate rises.")] = 0,
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="Decoupled, on matrices.")] = 0.0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Padded tokens in one pass.")] = 16384,
    max_length: Annotated[int | None, typer.Option("--max-length", help="Longest example, in tokens.")] = None,
    every: Annotated[int, typer.Option("--every", help="Updates between checkpoints.")] = 100,
    head: Annotated[str, typer.Option("--head", help="fused, or plain: logits as the model computes them.")] = "fused",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Of the order of the examples.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest checkpoint.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move an old run of that name aside.")] = False,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of run directories.")] = Path("runs"),
) -> None:
    """Train on texts or chats, and print the checkpoint it ends with."""
    if Path(name).name != name or name in ("", ".", ".."):
        raise InputError(f"--name {name!r} must be the name of one folder")
    run_dir = _run_dir(runs / name, resume=resume, fresh=fresh)
    from forkpoint.train.coldstart import ColdStart, cold_start

    settings = ColdStart(
        data=str(data), model=model, steps=steps, rows=rows, lr=lr, warmup=warmup, weight_decay=weight_decay,
        max_tokens=max_tokens, max_length=max_length, every=every, device=device, seed=seed,
        head=head,  # type: ignore[arg-type]
    )  # fmt: skip
    typer.echo(str(cold_start(settings, run_dir=run_dir, resume=resume, fresh=fresh)))


@app.command(name="eval")
@guarded
def evaluate(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="Whose model, task and eval settings to use.")
    ] = None,
    overrides: Overrides = None,
    completions: Annotated[Path | None, typer.Option("--completions", help="Grade this JSONL file instead.")] = None,
    answer: Annotated[str | None, typer.Option("--answer", help="Field with the reference answer.")] = None,
    completion: Annotated[str | None, typer.Option("--completion", help="Field with the completion(s).")] = None,
    recorded: Annotated[str | None, typer.Option("--recorded", help="Field with recorded verdicts to compare.")] = None,
    question: Annotated[str | None, typer.Option("--question", help="Field with the problem.")] = None,
    extraction: Annotated[str, typer.Option("--extraction", help="Where a completion has its answer.")] = "boxed",
    gold_extraction: Annotated[str, typer.Option("--gold-extraction", help="Where a reference has it.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure a model on held-out problems, or grade recorded completions.

    forkpoint eval recipes/demo.toml model.path=runs/demo/checkpoints/step-00010

    forkpoint eval --completions answers.jsonl --answer gt --completion response
    """
    if completions is None:
        if recipe is None:
            raise InputError("name a recipe, or a file of recorded answers with --completions")
        _evaluate_recipe(recipe, overrides or [], as_json=as_json)
        return
    if recipe is not None:
        raise InputError(f"give either the recipe {recipe} or --completions, not both")
    if answer is None or completion is None:
        raise InputError("--completions needs --answer and --completion: the fields to read")
    from forkpoint.evaluate.grade import grade_file

    graded = grade_file(
        completions,
        answer=answer,
        completion=completion,
        question=question,
        recorded=recorded,
        extraction=extraction,
        gold_extraction=gold_extraction,
    )
    typer.echo(_json(grade_summary(graded)) if as_json else grade_text(grade_summary(graded)))


@app.command()
@guarded
def report(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories; several are compared.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write; RUN/report.html, or comparison.html of several.")
    ] = None,
) -> None:
    """Write the report of a run, or a comparison of several, as one HTML file and print its path."""
    if len(run_dirs) > 1:
        from forkpoint.analyze.views.compare_runs import write_comparison

        typer.echo(str(write_comparison(run_dirs, out or Path("comparison.html"))))
        return
    from forkpoint.analyze.views.report import report as write_report

    typer.echo(str(write_report(run_dirs[0], out=out)))


@app.command()
@guarded
def watch(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, running or not.")],
    refresh: Annotated[float, typer.Option("--refresh", help="Seconds between looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print once and end.")] = False,
) -> None:
    """Show a run live in the terminal, with warnings in plain words."""
    from forkpoint.analyze.views.watch import watch as live

    live(run_dir, refresh, once)


@app.command()
@guarded
def analyze(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A run, a trace or dump, or (--prompts) a model.")],
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="Sample SOURCE, a model, with these problems.")
    ] = None,
    score_with: Annotated[
        str | None, typer.Option("--score-with", help="Model that reads the answers for exact entropies.")
    ] = None,
    part: Annotated[str, typer.Option("--part", help="Of a run: rollouts or evals.")] = "rollouts",
    entropy_kind: Annotated[
        str | None, typer.Option("--entropy-kind", help="Of a file that does not say: exact or lower-bound.")
    ] = None,
    group: Annotated[int, typer.Option("--group", help="Answers to each problem.")] = 8,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Longest answer, in tokens.")] = 1024,
    temperature: Annotated[float, typer.Option("--temperature", help="Of the samples.")] = 1.0,
    template: Annotated[
        str, typer.Option("--template", help="auto, none, chat, boxed, or text with {question}.")
    ] = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Of the samples.")] = 0,
    min_count: Annotated[int, typer.Option("--min-count", help="Token types must occur more often than this.")] = 100,
    save: Annotated[Path | None, typer.Option("--save", help="Write the trace here as well (parquet).")] = None,
    out: Annotated[Path, typer.Option("--out", help="Where to write the page.")] = Path("analysis.html"),
    as_json: AsJson = False,
) -> None:
    """Show where a model, a run or a trace forks: one HTML page.

    forkpoint analyze runs/demo

    forkpoint analyze models/countdown --prompts problems.jsonl --template none
    """
    for name, value, valid in (
        ("--part", part, ("rollouts", "evals")),
        ("--entropy-kind", entropy_kind, (None, "exact", "lower-bound")),
    ):
        if value not in valid:
            raise InputError(f"{name} {value!r} is none of {', '.join(str(word) for word in valid if word)}")
    from forkpoint.analyze.traces.parquet import write_traces
    from forkpoint.analyze.traces.sampling import ModelSettings
    from forkpoint.analyze.traces.sources import open_traces
    from forkpoint.analyze.views.overview import analyse, facts

    settings = ModelSettings(group=group, max_tokens=max_tokens, temperature=temperature, template=template, seed=seed)
    traces = open_traces(
        source, prompts=prompts, settings=settings, score_with=score_with,
        entropy_kind=entropy_kind, part=part,  # type: ignore[arg-type]
    )  # fmt: skip
    if save is not None:
        write_traces(save, traces, traces.about)
        traces = open_traces(save)
    stats = analyse(traces, out, min_count=min_count)
    if as_json:
        lines = {fact.label: " ".join(filter(None, (fact.before, fact.detail))) for fact in facts(stats)}
        typer.echo(_json({"page": str(out), **lines}))
        return
    for fact in facts(stats):
        typer.echo(f"{fact.label}: {fact.before}" + (f" ({fact.detail})" if fact.detail else ""))
    typer.echo(f"page  {out}")


@app.command()
@guarded
def methods(as_json: AsJson = False) -> None:
    """List the methods with their papers and equations."""
    from forkpoint.methods import describe

    rows = describe()
    typer.echo(_json(rows) if as_json else methods_text(rows))


@app.command()
@guarded
def env(as_json: AsJson = False) -> None:
    """Print versions and devices, for bug reports."""
    from forkpoint.environment import describe, environment

    found = environment()
    typer.echo(_json(found) if as_json else describe(found))


def _evaluate_recipe(recipe: Path, overrides: Sequence[str], *, as_json: bool) -> None:
    from forkpoint.train.measure import evaluate_model
    from forkpoint.train.recipe import load_recipe

    metrics = evaluate_model(load_recipe(recipe, overrides)).metrics()
    typer.echo(_json(metrics) if as_json else accuracy_text(metrics))


def _run_dir(run_dir: Path, *, resume: bool, fresh: bool) -> Path:
    """Return the run directory after refusing what contradicts itself; the run itself opens it."""
    if resume and fresh:
        raise InputError("--resume continues a run and --fresh starts it anew: give one of them")
    used = run_dir.is_dir() and any(run_dir.iterdir())
    if resume and not used:
        _say(f"note: {run_dir} holds no run to resume; starting anew")
    if used and not resume and not fresh:
        raise InputError(
            f"{run_dir} already holds a run: --resume continues it, --fresh moves it aside to {run_dir}.1 or "
            "the next free number, another name or --runs writes elsewhere"
        )
    return run_dir


def _told(error: Exception) -> tuple[str, int] | None:
    """Return (sentence, exit code) for an error of the input or the surroundings, None for any other."""
    if isinstance(error, ForkpointError):
        return str(error), error.exit_code
    if isinstance(error, OSError) and error.errno != errno.EPIPE:
        where = f" while writing {error.filename}" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"the disk is full{where}: free some space; {_again()}", 3
        return f"{error.strerror or error}: {error.filename or 'no file name known'}", 3
    if type(error).__name__ == "OutOfMemoryError":
        return (
            "the device has no memory left: lower train.micro_tokens (update) or decode.slots (decoding), "
            "or set model.gradient_checkpointing=true",
            3,
        )
    return None


def _again() -> str:
    """Return how to go on after a stop."""
    arguments = sys.argv[1:]
    if arguments[:1] not in (["train"], ["sft"]):
        return "run the command again"
    kept = [argument for argument in arguments if argument not in ("--resume", "--fresh")]
    return f"continue with `{shlex.join(['forkpoint', *kept, '--resume'])}`"


def _json(value: Any) -> str:
    import dataclasses

    def plain(item: Any) -> Any:
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
        return item if isinstance(item, str | int | float) else str(item)

    return json.dumps(value, indent=2, ensure_ascii=False, default=plain)


def _say(line: str) -> None:
    typer.echo(line, err=True)
