"""The command line: a thin layer that reads arguments, calls the library and tells errors in one line.

Nothing heavy is imported before a command runs, so that `forkpoint --help` answers at once.
"""

from __future__ import annotations

import errno
import functools
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from forkpoint import cli_methods
from forkpoint.cli_analyze import analyze
from forkpoint.cli_compare import compare
from forkpoint.cli_eval import evaluate
from forkpoint.cli_select import merge, select
from forkpoint.cli_text import accuracy_text, json_text
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
    offline: Annotated[
        Path | None, typer.Option("--offline", help="Learn from recorded answers: a run, its parquet files, or JSONL.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest checkpoint.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move an old run of that name aside.")] = False,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of run directories.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Train with a recipe, or show with --dry-run what it would do.

    forkpoint train recipes/demo.toml

    forkpoint train recipes/methods/reasonmaxxer.toml --offline runs/demo
    """
    from forkpoint.train.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    if dry_run and offline is not None:
        raise InputError("--dry-run sizes a run that samples, and --offline learns from recorded answers: give one")
    if dry_run:
        from forkpoint.train.dryrun import plan, render

        account = plan(loaded)
        typer.echo(json_text(account) if as_json else render(account), nl=as_json)
        return
    run_dir = _run_dir(runs / loaded.name, resume=resume, fresh=fresh)
    from forkpoint.analyze.views.report import report as write_report
    from forkpoint.train.loop import train as run_training

    result = run_training(loaded, run_dir=run_dir, resume=resume, fresh=fresh, offline=offline)
    page = write_report(run_dir)
    if as_json:
        typer.echo(json_text({"result": result, "report": page}))
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
    select: Annotated[str, typer.Option("--select", help="Tokens that count: all, entropy-sft or forking.")] = "all",
    share: Annotated[float | None, typer.Option("--share", help="Of tokens that a selection keeps.")] = None,
    kappa: Annotated[float | None, typer.Option("--kappa", help="Of entropy-sft: weight of the entropy.")] = None,
    rest: Annotated[float | None, typer.Option("--rest", help="Of forking: weight of the other tokens.")] = None,
    leave_out: Annotated[Path | None, typer.Option("--leave-out", help="JSON list of ids that never count.")] = None,
    head: Annotated[str, typer.Option("--head", help="fused, or plain: logits as the model computes them.")] = "fused",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int, typer.Option("--threads", help="CPU threads; 0 is every core.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Of the order of the examples.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest checkpoint.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move an old run of that name aside.")] = False,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of run directories.")] = Path("runs"),
) -> None:
    """Train on texts or chats, and print the checkpoint it ends with."""
    if Path(name).name != name or name in ("", ".", ".."):
        raise InputError(f"--name {name!r} must be the name of one folder")
    run_dir = _run_dir(runs / name, resume=resume, fresh=fresh)
    from forkpoint.train.coldstart import ColdStart, cold_start, read_ids

    settings = ColdStart(
        data=str(data), model=model, steps=steps, rows=rows, lr=lr, warmup=warmup, weight_decay=weight_decay,
        max_tokens=max_tokens, max_length=max_length, every=every, device=device, threads=threads, seed=seed,
        select=select, share=share, kappa=kappa, rest=rest, leave_out=read_ids(leave_out) if leave_out else (),
        head=head,  # type: ignore[arg-type]
    )  # fmt: skip
    typer.echo(str(cold_start(settings, run_dir=run_dir, resume=resume, fresh=fresh)))


app.command(name="eval")(guarded(evaluate))
app.command(name="select")(guarded(select))
app.command(name="merge")(guarded(merge))


@app.command()
@guarded
def report(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories; several are compared.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write; RUN/report.html, or comparison.html of several.")
    ] = None,
) -> None:
    """Write the report of a run, or a comparison of several, as one HTML file and print its path."""
    from forkpoint.train.files import output_path

    if out is not None:
        output_path(out, run_dirs)
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


app.command(name="analyze")(guarded(analyze))
app.command(name="compare")(guarded(compare))


methods = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
methods.callback(invoke_without_command=True)(guarded(cli_methods.overview))
methods.command(name="list")(guarded(cli_methods.catalogue))
methods.command(name="show")(guarded(cli_methods.show))
methods.command(name="plot")(guarded(cli_methods.plot))
methods.command(name="rocks")(guarded(cli_methods.rocks))
app.add_typer(methods, name="methods")


@app.command()
@guarded
def env(as_json: AsJson = False) -> None:
    """Print versions and devices, for bug reports."""
    from forkpoint.environment import describe, environment

    found = environment()
    typer.echo(json_text(found) if as_json else describe(found))


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


def _say(line: str) -> None:
    typer.echo(line, err=True)
