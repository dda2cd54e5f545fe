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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forkpoint.errors import ForkpointError, InputError

if TYPE_CHECKING:
    from forkpoint.evaluate.grade import GradeReport

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Which tokens should learn? Token-level credit for reinforcement learning with verifiable rewards.",
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML file; see recipes/.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change: train.lr=1e-4")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Run the command line."""
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
    run_dir = claim_run_dir(runs / loaded.name, resume=resume, fresh=fresh)
    from forkpoint.train.loop import train as run_training

    result = run_training(loaded, run_dir=run_dir, resume=resume)
    if as_json:
        typer.echo(_json(result))


@app.command(name="eval")
@guarded
def evaluate(
    recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE]", help="Whose model, task and eval settings to use.")] = None,
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
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    out: Annotated[Path | None, typer.Option("--out", help="Where to write; RUN/report.html by default.")] = None,
) -> None:
    """Write the report of a run as one HTML file and print its path."""
    from forkpoint.analyze.report import report as write_report

    typer.echo(str(write_report(run_dir, out=out)))


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


def claim_run_dir(run_dir: Path, *, resume: bool, fresh: bool) -> Path:
    """Return the directory a run may write to; an old run is continued or moved aside, never deleted.

    Args:
        run_dir: where the run goes.
        resume: continue what is there; without anything there the run starts anew.
        fresh: move what is there to `<name>.1`, `<name>.2`, …, the first that is free.

    Raises:
        InputError: there is a run and neither was asked for, or both were.
    """
    if resume and fresh:
        raise InputError("--resume continues a run and --fresh starts it anew: give one of them")
    used = run_dir.is_dir() and any(run_dir.iterdir())
    if resume:
        if not used:
            _say(f"note: {run_dir} holds no run to resume; starting anew")
        return run_dir  # the loop itself drops what came after the newest checkpoint
    from forkpoint.train.runlog import open_run

    open_run(run_dir, "fresh" if fresh else "new")
    if used:
        _say(f"note: the old run was moved aside, to the last of {run_dir}.1, {run_dir}.2, …")
    return run_dir


def grade_summary(graded: GradeReport) -> dict[str, Any]:
    """Return what `forkpoint eval --completions` prints, JSON-ready; disagreements without their texts."""
    estimate = graded.accuracy
    return {
        "problems": len(graded.lines),
        "completions": sum(graded.counts.values()),
        "verdicts": {str(verdict): count for verdict, count in graded.counts.items()},
        "accuracy": estimate.value,
        "accuracy_low": estimate.low,
        "accuracy_high": estimate.high,
        "pass_at_k": {str(k): value for k, value in graded.pass_at_k.items()},
        "compared": graded.compared,
        "agreed": graded.agreed,
        "disagreements": [
            {
                "line": one.line,
                "sample": one.sample,
                "gold": one.gold,
                "found": one.detail,
                "verdict": str(one.verdict),
                "recorded": one.recorded,
            }
            for one in graded.disagreements
        ],
    }


def grade_text(found: Mapping[str, Any], *, shown: int = 10) -> str:
    """Return a summary from `grade_summary` as lines, with the first disagreements."""
    percent = "{:.2f} %".format
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in found["verdicts"].items())
    low, high = percent(100 * found["accuracy_low"]), percent(100 * found["accuracy_high"])
    lines = [
        f"problems     {found['problems']}",
        f"completions  {found['completions']} ({verdicts})",
        f"accuracy     {percent(100 * found['accuracy'])} (95 % interval {low} to {high})",
        *(f"pass@{k:<7} {percent(100 * value)}" for k, value in found["pass_at_k"].items()),
    ]
    if found["compared"]:
        lines.append(f"agreement    {found['agreed']} of {found['compared']} recorded verdicts")
    for one in found["disagreements"][:shown]:
        said = "right" if one["recorded"] else "wrong"
        lines.append(
            f"  line {one['line']}, sample {one['sample']}: {one['verdict']}, recorded {said}; "
            f"reference {one['gold']!r}, found {one['found']!r}"
        )
    return "\n".join(lines)


def methods_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the methods as text: name, paper, stages, what it is, equation."""
    blocks = []
    for row in rows:
        paper = f"arXiv {row['paper']}" if row.get("paper") else "no paper"
        equation = "\n".join(f"    {line}" for line in str(row.get("equation") or "").splitlines())
        arguments = ", ".join(f"{name}={value!r}" for name, value in row["arguments"].items())
        parts = (
            f"{row['name']}  ({paper}; {row['stage']})",
            f"  {row['summary']}",
            equation,
            f"  arguments: {arguments or 'none'}",
        )
        blocks.append("\n".join(part for part in parts if part.strip()))
    return "\n\n".join(blocks)


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
