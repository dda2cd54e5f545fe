"""Several runs on one page: final accuracies with intervals, what differs in their recipes, their curves overlaid."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forkpoint.analyze.rundata import RunData, number, read_rollouts, read_run, series, step_of
from forkpoint.analyze.views import summary
from forkpoint.analyze.views.alarms import warnings_of
from forkpoint.analyze.views.gaps import gaps
from forkpoint.analyze.views.overlay import MOST_RUNS, overlay
from forkpoint.analyze.views.page import Numbers, Panel, render_page, write_page
from forkpoint.analyze.views.shares import share_panels
from forkpoint.errors import InputError
from forkpoint.evaluate import stats

_IGNORED = ("name", "seed")  # named in the table of results already


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one run came to."""

    name: str
    first: tuple[float, float, float]
    """Accuracy of the first evaluation, low, high; NaN where there is none."""
    last: tuple[float, float, float]
    """The same of the last evaluation."""
    step: int | None
    """The step of the last evaluation."""
    problems: float
    difference: tuple[float, float, float]
    """Last accuracy minus that of the first run named, low, high; NaN for that run itself."""
    paired: bool
    """The difference is paired by problem."""


def write_comparison(runs: Sequence[Path], out: Path) -> Path:
    """Write one self-contained HTML file that puts several runs side by side.

    Args:
        runs: run directories, two or more; differences are taken to the first.
        out: where to write. Replaced atomically.

    Returns:
        The path written.

    Raises:
        InputError: there are fewer than two or more than 25 runs, one of them is no run directory, or the page
            cannot be written.
    """
    if not 2 <= len(runs) <= MOST_RUNS:
        raise InputError(f"{len(runs)} run directories were given: a comparison takes 2 to {MOST_RUNS} of them")
    target = Path(out)
    write_page(target, render_comparison([read_run(path) for path in runs]))
    return target


def render_comparison(runs: Sequence[RunData]) -> str:
    """Return the comparison of runs as HTML; the same runs give the same text."""
    names = labels(runs)
    found = results(runs)
    rows = recipe_differences(runs)
    told = [(name, warnings_of(run.metrics)) for name, run in zip(names, runs, strict=True)]
    unknown = [name for name, run in zip(names, runs, strict=True) if not run.recipe.get("recipe")]
    alike = "The resolved recipes are the same but for name and seed."
    return render_page(
        "comparison.html.j2",
        panels=[*share_panels(names, runs, others_differ=_differ_outside_credit(rows)), *overlays(runs)],
        runs=names,
        notes=[f"{name}: {note}" for name, run in zip(names, runs, strict=True) for note in [*run.notes, *gaps(run)]],
        results=_result_table(runs, found),
        reading=_reading(found),
        recipes=Numbers(columns=["setting", *names], rows=rows, total=len(rows)),
        alike=f"Recipes cannot be compared: {', '.join(unknown)} has none." if unknown else alike,
        alarms=[(name, warnings) for name, warnings in told if warnings],
    )


def labels(runs: Sequence[RunData]) -> list[str]:
    """Return a name for every run: that of its recipe, with its folder, or its path, where two share one."""
    plain = [summary.header(run)["name"] for run in runs]
    longer = [
        name if name == run.path.name else f"{name} ({run.path.name})" for name, run in zip(plain, runs, strict=True)
    ]
    whole = [str(run.path) for run in runs]
    for names in (plain, longer, whole):
        if len(set(names)) == len(names):
            return names
    return [f"{name} #{place}" for place, name in enumerate(whole, start=1)]


def results(runs: Sequence[RunData]) -> list[Result]:
    """Return what every run came to, and its difference to the first one."""
    found: list[Result] = []
    for name, run in zip(labels(runs), runs, strict=True):
        rows = [row for row in run.evaluations if math.isfinite(number(row.get("eval/accuracy")))]
        first, last = (_accuracy(rows[place]) if rows else (math.nan,) * 3 for place in (0, -1))
        difference, paired = ((math.nan,) * 3, False) if not found else _difference(runs[0], found[0], run, last)
        found.append(
            Result(
                name=name,
                first=first,
                last=last,
                step=rows[-1]["step"] if rows else None,
                problems=number(rows[-1].get("eval/problems")) if rows else math.nan,
                difference=difference,
                paired=paired,
            )
        )
    return found


def recipe_differences(runs: Sequence[RunData]) -> list[list[str]]:
    """Return a row for every setting that is not the same in all recipes: its dotted name, its value in every run.

    A setting that a recipe does not have is a dash. `name` and `seed` are left out.
    """
    flat = [_flattened(run.recipe.get("recipe", {})) for run in runs]
    flat = [settings for settings in flat if settings]
    if len(flat) < len(runs):
        return []
    names = sorted({name for settings in flat for name in settings} - set(_IGNORED))
    rows = [[name, *(settings.get(name, "–") for settings in flat)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def _differ_outside_credit(rows: Sequence[Sequence[str]]) -> bool:
    return any(not row[0].startswith("credit") for row in rows)


def overlays(runs: Sequence[RunData]) -> list[Panel]:
    """Return the curves of all runs in common figures."""
    trained, evaluated = [run.metrics for run in runs], [run.evaluations for run in runs]
    names = labels(runs)
    bands = ("eval/accuracy_low", "eval/accuracy_high")
    return [
        overlay(names, evaluated, "eval/accuracy", "Accuracy", "Share of answers to held-out problems that are right, "
                "with 95 % intervals.", unit="accuracy", band=bands, percent=True),
        overlay(names, trained, "reward/mean", "Reward", "Mean reward of the answers trained on.", unit="reward"),
        overlay(names, trained, "entropy/mean", "Entropy", "Mean entropy of response tokens.", unit="entropy (nats)"),
        overlay(names, trained, "length/mean", "Answer length", "Mean length of the answers.", unit="tokens"),
        overlay(names, trained, "groups/useful", "Useful groups", "Share of groups with both right and wrong answers.",
                unit="useful", percent=True),
        overlay(names, trained, "credit/share", "Credited tokens", "Share of response tokens that received credit.",
                unit="credited", percent=True),
        overlay(names, trained, "grad_norm", "Gradient", "Norm of the gradient before clipping.", unit="norm"),
        overlay(names, trained, "tokens/learned", "Tokens learned on", "Response tokens with credit, a step.",
                unit="tokens a step"),
    ]  # fmt: skip


def _accuracy(row: Mapping[str, Any]) -> tuple[float, float, float]:
    return (
        number(row.get("eval/accuracy")),
        number(row.get("eval/accuracy_low")),
        number(row.get("eval/accuracy_high")),
    )


def _difference(
    base: RunData, base_result: Result, run: RunData, last: tuple[float, float, float]
) -> tuple[tuple[float, float, float], bool]:
    """Return the difference to the first run: paired by problem where both kept the answers, else from intervals."""
    if not all(map(math.isfinite, (*base_result.last, *last))):
        return (math.nan,) * 3, False
    files = [_last_answers(base), _last_answers(run)]
    if files[0] is not None and files[1] is not None:
        try:
            tables = [read_rollouts(path, ["prompt_id", "verdict"]) for path in files if path is not None]
            paired = summary.paired_difference(*tables)
        except InputError:
            paired = (math.nan,) * 3
        # Answers that do not explain the recorded accuracies are of something else.
        if abs(paired[0] - (last[0] - base_result.last[0])) < 5e-4 and paired[1] < paired[2]:
            return paired, True
    return stats.unpaired_difference(base_result.last, last), False


def _last_answers(run: RunData) -> Path | None:
    steps = [row["step"] for row in run.evaluations if math.isfinite(number(row.get("eval/accuracy")))]
    return {step_of(path): path for path in run.eval_files}.get(steps[-1]) if steps else None


def _result_table(runs: Sequence[RunData], found: Sequence[Result]) -> Numbers:
    columns = [
        "run", "method", "seed", "steps", "first accuracy", "last accuracy", "its 95 % interval", "difference, points",
        "its 95 % interval", "tokens learned", "training time",
    ]  # fmt: skip
    rows = []
    for run, result in zip(runs, found, strict=True):
        about = summary.header(run)
        learned = float(np.nansum(series(run.metrics, "tokens/learned")))
        spent = float(np.nansum(series(run.metrics, "time/step")))
        differs = math.isfinite(result.difference[0])
        rows.append(
            [
                result.name,
                about["method"],
                about["seed"],
                str(len(run.metrics)),
                _percent(result.first[0]),
                _percent(result.last[0]),
                f"{_percent(result.last[1])} to {_percent(result.last[2])}" if result.step is not None else "",
                f"{100 * result.difference[0]:+.1f}" if differs else "",
                f"{100 * result.difference[1]:+.1f} to {100 * result.difference[2]:+.1f}" if differs else "",
                f"{learned:,.0f}" if learned else "",
                summary.seconds(spent) if spent else "",
            ]
        )
    return Numbers(columns=columns, rows=rows, total=len(rows))


def _reading(found: Sequence[Result]) -> str:
    how = {result.paired for result in found[1:] if math.isfinite(result.difference[0])}
    said = (
        f"Differences are of the last accuracies, to {found[0].name}" if how else "No run can be compared in accuracy"
    )
    said += {
        (True,): ", paired by problem. ",
        (False,): ", as if the problems were independent: the answers of the evaluations are not there to be paired. ",
        (False, True): ", paired by problem where the answers of both evaluations are there, else as if independent. ",
    }.get(tuple(sorted(how)), ". ")
    said += (
        "Intervals cover the draw of held-out problems and of answers to them; a run is one seed, so they do not "
        "cover what another seed would give."
    )
    steps = {result.step for result in found if result.step is not None}
    if len(steps) > 1:
        said += " The last evaluations belong to different steps."
    if len(found) > 2:
        said += f" The {len(found) - 1} differences are each at 95 %, without correction for their number."
    return said


def _percent(share: float) -> str:
    return summary.percent(share) if math.isfinite(share) else ""


def _flattened(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, Mapping):
        return {
            name: text
            for key, inner in value.items()
            for name, text in _flattened(inner, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return {prefix: text} if prefix else {}
