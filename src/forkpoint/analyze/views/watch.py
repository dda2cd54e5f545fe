"""A live view of a run on a terminal: what training does now, and a warning as soon as it goes wrong.

It only reads the run directory, so it can watch a run of another process, and leaves it alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forkpoint.analyze.rundata import RunData, number, read_run, series
from forkpoint.analyze.text import visible
from forkpoint.analyze.views import summary
from forkpoint.analyze.views.alarms import Limits as Limits
from forkpoint.analyze.views.alarms import RunWarning as RunWarning
from forkpoint.analyze.views.alarms import warnings_of as warnings_of
from forkpoint.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console, Group

_ROWS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("reward", "reward/mean", "{:.3f}".format),
    ("right", "reward/right", "{:.1%}".format),
    ("entropy, nats", "entropy/mean", "{:.3f}".format),
    ("entropy at least, nats", "entropy_lower_bound/mean", "{:.3f}".format),
    ("80th percentile", "entropy/p80", "{:.3f}".format),
    ("answer length", "length/mean", "{:.1f}".format),
    ("cut at the limit", "length/truncated", "{:.1%}".format),
    ("useful groups", "groups/useful", "{:.1%}".format),
    ("tokens credited", "credit/share", "{:.1%}".format),
    ("gradient norm", "grad_norm", "{:.3g}".format),
    ("seconds a step", "time/step", "{:.1f}".format),
)
_BARS = "▁▂▃▄▅▆▇█"
_QUIET = 10.0
"""A run that wrote nothing for this many of its steps is said to be quiet."""


def watch(run_dir: Path, refresh: float = 2.0, once: bool = False, *, console: Console | None = None) -> None:
    """Show a run until it is finished or the reader stops it with Ctrl-C.

    Args:
        run_dir: a run directory; the run may have written little yet.
        refresh: seconds between looks at the files.
        once: print the view once and return.
        console: where to draw; the terminal if None.

    Raises:
        InputError: there is no directory, or it is no run directory.
    """
    from rich.console import Console as RichConsole
    from rich.live import Live

    if refresh <= 0:
        raise InputError(f"refresh={refresh} must be a number of seconds above 0")
    console = console or RichConsole()
    run = read_run(run_dir)
    if once:
        console.print(view(run, now=time.time()))
        return
    seen = None
    try:
        with Live(view(run, now=time.time()), console=console, auto_refresh=False) as live:
            while not finished(run):
                time.sleep(refresh)
                stamp = _stamp(run.path)
                run, seen = (run, seen) if stamp == seen else (read_run(run.path), stamp)
                live.update(view(run, now=time.time()), refresh=True)
    except KeyboardInterrupt:
        return


def finished(run: RunData) -> bool:
    """Return whether a run has written its last step, and its last evaluation where the recipe asks for one."""
    steps = _steps(run)
    if not steps or not run.metrics or run.metrics[-1]["step"] < steps:
        return False
    recipe = run.recipe.get("recipe", {})
    after = recipe.get("eval", {}).get("after", False) if isinstance(recipe.get("eval"), dict) else False
    return not after or bool(run.evaluations and run.evaluations[-1]["step"] >= steps)


def view(run: RunData, *, now: float) -> Group:
    """Return what the terminal shows of a run.

    Args:
        run: what `read_run` found.
        now: the time in unix seconds, which tells how long the run has been quiet.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    about = summary.header(run)
    # Text and not markup: names come from files and must not be read as instructions to the terminal.
    title = Text(visible(f"{about['name']}  ·  {about['method']}  ·  {about['model']}"), style="bold")
    parts: list[Any] = [title, Text(_progress(run, now))]
    if run.metrics:
        table = Table("", "first", "now", "over the run", box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.columns[1].justify = table.columns[2].justify = "right"
        for label, name, form in _ROWS:
            values = series(run.metrics, name)
            kept = values[np.isfinite(values)]
            if kept.size:
                table.add_row(label, form(kept[0]), form(kept[-1]), sparkline(values))
        parts += [Text(), table]
    lines = [_evaluated(row) for row in run.evaluations if np.isfinite(number(row.get("eval/accuracy")))]
    if lines:
        shown = lines if len(lines) <= 4 else [lines[0], "…", *lines[-3:]]
        parts += [Text(), Text("held-out problems", style="dim"), *map(Text, shown)]
    for warning in warnings_of(run.metrics):
        said = Text(f"\nwarning: {warning.kind}. ", style="bold yellow")
        parts += [said.append(Text(f"{warning.text} {warning.advice}", style="not bold"))]
    parts += [Text(visible(f"note: {note}"), style="dim") for note in run.notes if run.metrics]
    return Group(*parts)


def sparkline(values: NDArray[np.float64] | Sequence[float], width: int = 40) -> str:
    """Return numbers as a row of bars from their lowest to their highest; a gap is a space.

    More numbers than `width` are averaged in equal parts. Movement below a tenth of the largest number is not blown
    up to the full height.

    >>> sparkline([0.0, 1.0, float("nan"), 7.0])
    '▁▂ █'
    """
    whole = np.asarray(values, dtype=np.float64)
    parts = np.array_split(whole, min(width, len(whole))) if len(whole) else []
    means = np.array([np.nanmean(part) if np.isfinite(part).any() else np.nan for part in parts])
    finite = means[np.isfinite(means)]
    if not finite.size:
        return ""
    low = float(finite.min())
    span = max(float(np.ptp(finite)), 0.1 * float(np.abs(finite).max())) or 1.0
    return "".join(" " if np.isnan(m) else _BARS[round((m - low) / span * (len(_BARS) - 1))] for m in means)


def _progress(run: RunData, now: float) -> str:
    if not run.metrics:
        return "waiting for the first step"
    step, steps = run.metrics[-1]["step"], _steps(run)
    if finished(run):
        return f"finished: {step} of {steps} steps"
    durations = series(run.metrics, "time/step")
    seconds = float(np.nanmean(durations[-10:])) if np.isfinite(durations[-10:]).any() else np.nan
    said = f"step {step} of {steps}" if steps else f"step {step}"
    if steps and np.isfinite(seconds):
        said += f", about {summary.seconds(seconds * (steps - step))} of training left"
    last = max(number(row.get("time")) for row in (run.metrics[-1], *run.evaluations[-1:]))
    if np.isfinite(last) and np.isfinite(seconds) and now - last > max(60.0, _QUIET * seconds):
        said += f"; nothing new for {summary.seconds(now - last)}: the run may have stopped"
    return said


def _evaluated(row: dict[str, Any]) -> str:
    accuracy, low, high = (number(row.get(f"eval/accuracy{end}")) for end in ("", "_low", "_high"))
    return f"step {row['step']:>6}  {accuracy:6.1%}  (95 % interval {low:.1%} to {high:.1%})"


def _steps(run: RunData) -> int:
    recipe = run.recipe.get("recipe")
    train = recipe.get("train") if isinstance(recipe, dict) else None
    steps = number(train.get("steps")) if isinstance(train, dict) else np.nan
    return int(steps) if np.isfinite(steps) else 0


def _stamp(path: Path) -> tuple[tuple[int, int] | None, ...]:
    """Return what changes when a run writes: time and size of its small files."""
    found: list[tuple[int, int] | None] = []
    for name in ("metrics.jsonl", "recipe.json"):
        try:
            stat = (path / name).stat()
            found.append((stat.st_mtime_ns, stat.st_size))
        except FileNotFoundError:
            found.append(None)
    return tuple(found)
