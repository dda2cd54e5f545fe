"""`forkpoint compare`: arguments to systems, a table, a page, and an exit code."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forkpoint.cli_text import json_text
from forkpoint.errors import InputError

if TYPE_CHECKING:
    from forkpoint.evaluate.compare import Comparison, Measured, Pair
    from forkpoint.evaluate.paired import PairedTest
    from forkpoint.evaluate.stats import Estimate

_FIELDS = "Fields of a file, where they are not found by themselves"
WORSE = 1
"""Exit code of --fail-if-worse."""


def compare(
    systems: Annotated[
        list[str],
        typer.Argument(metavar="[NAME=]PATH[:FIELD]...", help="Runs, or graded answers; the first is the baseline."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Where to write the page.")] = Path("evaluations.html"),
    level: Annotated[float, typer.Option("--level", help="Coverage of the intervals.")] = 0.95,
    fail_if_worse: Annotated[
        bool, typer.Option("--fail-if-worse", help="Exit with 1 if any is worse than the first beyond chance.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse evaluations under different conditions.")] = False,
    problem: Annotated[str | None, typer.Option("--id", help="Id of the problem.", rich_help_panel=_FIELDS)] = None,
    value: Annotated[str | None, typer.Option("--value", help="Verdict or score.", rich_help_panel=_FIELDS)] = None,
    answer: Annotated[
        str | None, typer.Option("--answer", help="Extracted answer, for votes.", rich_help_panel=_FIELDS)
    ] = None,
    score: Annotated[
        str | None, typer.Option("--score", help="Score by which best-of-n chooses.", rich_help_panel=_FIELDS)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say whether evaluations differ beyond chance: a table, an HTML page, an exit code.

    forkpoint compare runs/base runs/forking

    forkpoint compare old.jsonl new.jsonl --fail-if-worse

    forkpoint compare grpo=g1.jsonl,g2.jsonl forking=f1.jsonl,f2.jsonl   (training seeds)
    """
    from dataclasses import replace

    from forkpoint.analyze.result_rows import Fields
    from forkpoint.analyze.systems import parse_source, read_systems
    from forkpoint.analyze.views.compare_evaluations import write_evaluations
    from forkpoint.evaluate import compare as comparing
    from forkpoint.train.files import output_path

    output_path(out, [path for system in systems for path in parse_source(system).paths])
    fields = Fields(problem=problem, value=value, answer=answer, score=score)
    benchmarks, left_out = read_systems(systems, fields)
    found = comparing.compare(benchmarks, level=level)
    found = replace(found, notes=(*left_out, *found.notes))
    if strict:
        _refuse_unlike(found)
    write_evaluations(found, out)
    typer.echo(json_text(summary(found, out)) if as_json else text(found, out))
    worse = found.worse()
    if fail_if_worse and worse:
        typer.echo(f"worse: {'; '.join(_called(pair) for pair in worse)}", err=True)
        raise typer.Exit(WORSE)


def text(found: Comparison, out: Path) -> str:
    """Return a comparison as lines for a terminal."""
    from forkpoint.analyze.text import visible
    from forkpoint.analyze.views.compare_evaluations import others, p_text, points, share, span

    lines = []
    for benchmark, systems in found.benchmarks.items():
        lines += [benchmark] if benchmark else []
        width = max(len(one.name) for one in systems)
        for one in systems:
            size = f"{one.accuracy.problems} problems x {one.metrics.answers[0]}"
            reached = f"{share(one.accuracy.value)} ({span(one.accuracy)}; {size})"
            lines.append(f"{one.name:<{width}}  {reached} {others(one)}".rstrip())
    for pair in found.pairs:
        test, both = pair.test, pair.test.mcnemar
        parts = [
            f"{points(test.difference.value)} points ({points(test.difference.low)} to {points(test.difference.high)})",
            f"p = {p_text(test.p_value)}",
            f"Holm {p_text(pair.p_holm)}" if len(found.pairs) > 1 else "",
            f"McNemar {both.won}:{both.lost}, p = {p_text(both.exact)}" if both else "",
            f"{len(pair.changed)} problems changed sides",
        ]
        lines += [f"{_called(pair)}: {'; '.join(filter(None, parts))}", f"  {pair.resolution}"]
    lines += [f"note: {note}" for note in found.notes]
    return visible("\n".join([*lines, f"page  {out}"]))


def summary(found: Comparison, out: Path) -> dict[str, Any]:
    """Return a comparison JSON-ready; NaN becomes null."""
    return {
        "page": str(out),
        "level": found.level,
        "benchmarks": {name: [_measured(one) for one in systems] for name, systems in found.benchmarks.items()},
        "pairs": [_pair(pair) for pair in found.pairs],
        "worse": [_called(pair) for pair in found.worse()],
        "notes": list(found.notes),
    }


def _refuse_unlike(found: Comparison) -> None:
    for pair in found.pairs:
        if pair.spec is None:
            raise InputError(
                f"{_called(pair)}: the conditions of both are not recorded, so --strict cannot compare them: put "
                "FILE.spec.json beside each file, or leave out --strict"
            )
        if pair.spec:
            listed = "; ".join(map(str, pair.spec))
            raise InputError(f"{_called(pair)}: the conditions differ ({listed}): evaluate both alike")


def _called(pair: Pair) -> str:
    return f"{pair.second} - {pair.first}" + (f" on {pair.benchmark}" if pair.benchmark else "")


def _measured(one: Measured) -> dict[str, Any]:
    return {
        "name": one.name,
        "accuracy": _estimate(one.accuracy),
        "metrics": {name: _estimate(value) for name, value in one.metrics.estimates.items()},
        "answers": list(one.metrics.answers),
        "unjudged": one.metrics.unjudged,
        "seeds": one.seeds,
        "seed_deviation": _plain(one.seed_deviation),
        "variance_between": _plain(one.split.between),
        "variance_within": _plain(one.split.within),
    }


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "benchmark": pair.benchmark,
        "first": pair.first,
        "second": pair.second,
        **_test(pair.test),
        "p_holm": _plain(pair.p_holm),
        "metrics": {name: _test(test) for name, test in pair.curve.items()},
        "changed": [{"problem": one.problem, "before": one.before, "after": one.after} for one in pair.changed],
        "unshared": pair.unshared,
        "detectable": _plain(pair.detectable),
        "resolution": pair.resolution,
        "spec": None if pair.spec is None else [{"field": d.field, "first": d.a, "second": d.b} for d in pair.spec],
    }


def _test(test: PairedTest) -> dict[str, Any]:
    both = test.mcnemar
    return {
        "difference": _estimate(test.difference),
        "p": _plain(test.p_value),
        "mcnemar": None if both is None else {"won": both.won, "lost": both.lost, "exact": both.exact, "mid": both.mid},
        "better": test.better,
        "worse": test.worse,
        "unpaired_error": _plain(test.unpaired_error),
    }


def _estimate(value: Estimate) -> dict[str, Any]:
    return {
        "value": _plain(value.value),
        "low": _plain(value.low),
        "high": _plain(value.high),
        "error": _plain(value.error),
        "problems": value.problems,
        "samples": value.samples,
    }


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
