"""The report of one run: a single HTML file that opens from disk, without server or network.

It reads nothing but the run directory, so a run that was killed, or written by another engine, gets one too;
what is missing is said in the page. Foreign text is hostile: characters that would hide or reorder it are
made visible, then everything is escaped once, by jinja2.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from forkpoint.analyze import figures, summary, tokenview
from forkpoint.analyze.rundata import RunData, column_tokens, number, read_rollouts, read_run, series
from forkpoint.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jinja2 import Environment
    from pyarrow import Table

TEMPLATES = Path(__file__).parent / "templates"
_ROWS_SHOWN = 60


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A figure with the sentence that says what it shows; without `svg`, the sentence that says why not."""

    title: str
    caption: str
    svg: str = ""


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
    _write(target, render(run))
    return target


def render(run: RunData) -> str:
    """Return the report of a run as HTML; the same run gives the same text."""
    from markupsafe import Markup

    notes = list(run.notes)
    tables = _first_and_last(run.rollout_files, notes)
    script = (TEMPLATES / "report.js").read_text("utf-8")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            # Our own style, script and figures; everything else is escaped.
            style=Markup((TEMPLATES / "report.css").read_text("utf-8")),  # noqa: S704
            script=Markup(script),  # noqa: S704
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            header=summary.header(run),
            facts=summary.facts(run),
            times=summary.times(run),
            panels=_panels(run, tables),
            completions={label: tokenview.completions(table) for label, table in tables.items()},
            edges=tokenview.ENTROPY_EDGES,
            evaluations=_table(run.evaluations),
            metrics=_table(run.metrics),
            recipe=json.dumps(run.recipe.get("recipe", {}), indent=2, ensure_ascii=False),
            notes=notes,
        )
    )


def _panels(run: RunData, tables: dict[str, Table]) -> list[Panel]:
    """Return every figure of the report: an entry here, a function in `figures`."""
    evaluated, trained = partial(series, run.evaluations), partial(series, run.metrics)
    quantiles = {label: f"entropy/{label}" for label in ("p50", "p80", "p95")}
    entropies = {label: column_tokens(table, "entropy") for label, table in tables.items()}
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
            ["entropy/mean", *quantiles.values()],
            lambda step, mean, *rest: figures.entropy(step, mean, dict(zip(quantiles, rest, strict=True))),
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
            svg=_markup(figures.entropy_histogram(entropies)) if any(v.size for v in entropies.values()) else "",
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
    return Panel(title=title, caption=caption, svg=_markup(draw(values("step"), *columns)))


def _first_and_last(files: Sequence[Path], notes: list[str]) -> dict[str, Table]:
    """Return the first and the last readable rollout file under the name of their step."""
    tables: dict[str, Table] = {}
    for candidates in (files, files[::-1]):
        for path in candidates:
            label = f"step {int(path.stem.removeprefix('step-'))}"
            if label in tables:
                break
            try:
                table = read_rollouts(path, tokenview.COLUMNS)
                tokenview.require_columns(table)
            except InputError as error:
                note = f"A rollout file was left out: {error.args[0].replace(str(path), path.name)}."
                notes += [note] if note not in notes else []
                continue
            tables[label] = table
            break
    return tables


def _table(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return records as a table of at most `_ROWS_SHOWN` evenly spaced rows, the last always among them."""
    columns = ["step", *sorted({key for record in records for key in record} - {"step", "time"})]
    count = min(len(records), _ROWS_SHOWN)
    picked = [records[round(i * (len(records) - 1) / max(count - 1, 1))] for i in range(count)]
    rows = [[_cell(record.get(column)) for column in columns] for record in picked]
    return {"columns": columns, "rows": rows, "total": len(records)}


def _cell(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{number(value):.5g}"
    return "" if value is None else str(value)


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: object) -> object:
        return tokenview.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _markup(svg: str) -> str:
    from markupsafe import Markup

    return Markup(svg)  # noqa: S704 (drawn by `figures`, which escapes its labels)


def _write(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never half of one."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="\n", dir=path.parent, prefix=".report-", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(text)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise InputError(f"the report cannot be written to {path}: {error.strerror or error}") from error
