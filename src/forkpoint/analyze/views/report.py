"""The report of one run: a single HTML file that opens from disk, without server or network.

It reads nothing but the run directory, so a run that was killed, or written by another engine, gets one too;
what is missing is said in the page.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forkpoint.analyze.rundata import RunData, column_tokens, read_rollouts, read_run, series
from forkpoint.analyze.views import figures, summary
from forkpoint.analyze.views.alarms import warnings_of
from forkpoint.analyze.views.answers import COLUMNS, Answer, answers, check_columns, recorded
from forkpoint.analyze.views.gaps import gaps
from forkpoint.analyze.views.page import Panel, render_page, table_of, write_page
from forkpoint.errors import InputError

if TYPE_CHECKING:
    from pyarrow import Table

ANSWERS_SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """What the first and the last readable rollout file give to the page."""

    answers: list[Answer] = field(default_factory=list)
    entropies: dict[str, NDArray[np.float64]] = field(default_factory=dict)


def report(run_dir: Path, *, out: Path | None = None) -> Path:
    """Write the report of a run as one self-contained HTML file.

    Args:
        run_dir: A run directory; any of its files may be missing or short.
        out: Where to write; `run_dir/report.html` if None. Replaced atomically.

    Returns:
        The path written.

    Raises:
        InputError: `run_dir` is no run directory, or the report cannot be written.
    """
    run = read_run(run_dir)
    target = run.path / "report.html" if out is None else Path(out)
    write_page(target, render(run))
    return target


def render(run: RunData, *, extra: Sequence[Panel] = ()) -> str:
    """Return the report of a run as HTML; the same run gives the same text.

    Args:
        run: what `read_run` found.
        extra: further figures, shown after the run's own.
    """
    notes = [*run.notes, *gaps(run)]
    shown = _first_and_last(run.rollout_files, notes)
    return render_page(
        "report.html.j2",
        panels=[*_panels(run, shown), *extra],
        answers=shown.answers,
        header=summary.header(run),
        facts=summary.facts(run),
        times=summary.times(run),
        warnings=warnings_of(run.metrics),
        evaluations=table_of(run.evaluations),
        metrics=table_of(run.metrics),
        recipe=json.dumps(run.recipe.get("recipe", {}), indent=2, ensure_ascii=False),
        notes=notes,
    )


def _first_and_last(files: Sequence[Path], notes: list[str]) -> _Shown:
    """Return answers and entropies of the first and the last readable rollout file; say which cannot be read."""
    shown, taken = _Shown(), set()
    for candidates in (files, files[::-1]):
        for path in candidates:
            if path in taken:
                break
            try:
                table = _table(path)
                found = answers(table, source=f"step {int(path.stem.removeprefix('step-'))}", count=ANSWERS_SHOWN // 2)
            except InputError as error:
                note = f"A rollout file was left out: {error.args[0].replace(str(path), path.name)}."
                notes += [note] if note not in notes else []
                continue
            shown.answers.extend(found)
            if found and recorded(table, "entropy"):
                shown.entropies[found[0].source] = column_tokens(table, "entropy")
            taken.add(path)
            break
    return shown


def _table(path: Path) -> Table:
    """Return the columns of a rollout file that the page uses."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = set(pq.read_schema(path).names)
    except (pa.ArrowException, OSError):
        names = set(COLUMNS)  # reading it says what is wrong
    table = read_rollouts(path, [name for name in COLUMNS if name in names])
    check_columns(table)
    return table


def _panels(run: RunData, shown: _Shown) -> list[Panel]:
    """Return every figure of the report: an entry here, a function in `figures`."""
    evaluated, trained = partial(series, run.evaluations), partial(series, run.metrics)
    bound = any("entropy_lower_bound/mean" in record for record in run.metrics)
    prefix = "entropy_lower_bound" if bound else "entropy"
    quantiles = {label: f"{prefix}/{label}" for label in ("p50", "p80", "p95")}
    return [
        _panel(
            "Accuracy",
            "Share of answers to held-out problems that are right, with its 95 % interval.",
            evaluated,
            ["eval/accuracy", "eval/accuracy_low", "eval/accuracy_high"],
            figures.accuracy,
        ),
        _panel(
            "Reward",
            "Mean reward of the answers trained on at every step; "
            "the band is one standard deviation of single answers.",
            trained,
            ["reward/mean", "reward/std"],
            figures.reward,
        ),
        _panel(
            "Entropy over time",
            "How uncertain the model is about its next token: mean, median, 80th and 95th percentile. "
            "A mean near zero says it no longer explores.",
            trained,
            [f"{prefix}/mean", *quantiles.values()],
            lambda step, mean, *rest: figures.entropy(
                step, mean, dict(zip(quantiles, rest, strict=True)), lower_bound=bound
            ),
        ),
        _panel(
            "Credited tokens",
            "Share of response tokens that learned, and the lowest entropy among them: the border of a fork.",
            trained,
            ["credit/share", "credit/threshold"],
            figures.credited,
        ),
        _panel(
            "Optimisation",
            "Loss and norm of the gradient, means over the updates of a step. In reinforcement learning the loss "
            "need not fall; a gradient that grows or vanishes is what to look for.",
            trained,
            ["loss", "grad_norm"],
            figures.optimisation,
        ),
        _panel(
            "Answer length",
            "Mean and longest answer in tokens, and the share of answers cut at the limit before they ended.",
            trained,
            ["length/mean", "length/max", "length/truncated"],
            figures.response_length,
        ),
        _panel(
            "Useful groups",
            "Share of prompts answered both right and wrong, which alone teach something, "
            "and how many others were drawn again.",
            trained,
            ["groups/useful", "groups/resampled"],
            figures.useful_groups,
        ),
        Panel(
            title="Where the entropy lies",
            caption="Tokens by the entropy they were sampled with, first and last recorded step. "
            "Counts are logarithmic: most tokens are certain, few are forks.",
            svg=figures.entropy_histogram(shown.entropies, lower_bound=any(a.lower_bound for a in shown.answers))
            if any(values.size for values in shown.entropies.values())
            else "",
        ),
    ]


def _panel(
    title: str,
    caption: str,
    values: Callable[[str], Any],
    names: Sequence[str],
    draw: Callable[..., str],
) -> Panel:
    """Return the figure of some metrics over steps, or without picture where the first of them is missing."""
    columns = [values(name) for name in names]
    if not np.isfinite(columns[0]).any():
        return Panel(title=title, caption=caption)
    return Panel(title=title, caption=caption, svg=draw(values("step"), *columns))
