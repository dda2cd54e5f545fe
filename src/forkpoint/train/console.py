"""What a person sees while a run is going: a live table and bars on a terminal, a line a step elsewhere."""

from __future__ import annotations

import math
import os
import sys
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

_COLUMNS = {
    "reward": ("reward/mean", "{:.3f}"),
    "right": ("reward/answer", "{:.3f}"),
    "entropy": ("entropy/mean", "{:.3f}"),
    "length": ("length/mean", "{:.1f}"),
    "credit": ("credit/share", "{:.1%}"),
    "loss": ("loss", "{:+.4f}"),
    "gradient": ("grad_norm", "{:.3g}"),
    "seconds": ("time/step", "{:.1f}"),
}
"""Heading: metric and how it is written. Metrics that a run does not have are left out."""
_SHOWN_STEPS = 12


class Console(Protocol):
    """Where a run tells how it is going."""

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Show one training step."""

    def evaluation(self, metrics: Mapping[str, Any]) -> None:
        """Show one evaluation (`eval/…` metrics)."""

    def note(self, text: str) -> None:
        """Show one sentence that stays."""

    def progress(self, done: int, total: int) -> None:
        """Show how many answers of this step are decoded."""

    def close(self) -> None:
        """Leave the terminal as it was found."""


def make_console(total_steps: int, *, stream: TextIO | None = None, live: bool | None = None) -> Console:
    """Return a live console on a terminal, a plain one otherwise and where `CI` or `NO_COLOR` is set.

    Args:
        total_steps: how many steps the run will make, >= 0.
        stream: where to write; standard output by default.
        live: overrides the choice.
    """
    stream = stream or sys.stdout
    if live is None:
        quiet = any(os.environ.get(name) for name in ("CI", "NO_COLOR")) or os.environ.get("TERM") == "dumb"
        live = stream.isatty() and not quiet
    return _Live(total_steps, stream) if live else _Plain(total_steps, stream)


def _cells(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return the main metrics of a step as text, by heading."""
    found = {name: (metrics[key], form) for name, (key, form) in _COLUMNS.items() if key in metrics}
    return {name: _number(value, form) for name, (value, form) in found.items()}


def _number(value: Any, form: str) -> str:
    value = math.nan if value is None else float(value)
    return form.format(value) if math.isfinite(value) else "-"


def _evaluation_line(metrics: Mapping[str, Any]) -> str:
    """Return an evaluation as one sentence.

    >>> _evaluation_line({"step": 3, "eval/accuracy": 0.25, "eval/accuracy_low": 0.2,
    ...     "eval/accuracy_high": 0.3, "eval/problems": 256, "eval/samples": 4, "eval/length": 27.12})
    'evaluation after step 3: accuracy 25.0% (20.0% to 30.0%), 256 problems x 4, length 27.1'
    """
    text = f"evaluation after step {metrics.get('step', 0)}: accuracy {_percent(metrics, 'eval/accuracy')}"
    if "eval/accuracy_low" in metrics:
        text += f" ({_percent(metrics, 'eval/accuracy_low')} to {_percent(metrics, 'eval/accuracy_high')})"
    if "eval/problems" in metrics:
        text += f", {metrics['eval/problems']} problems x {metrics.get('eval/samples', 1)}"
    if "eval/length" in metrics:
        text += f", length {_number(metrics['eval/length'], '{:.1f}')}"
    return text


def _percent(metrics: Mapping[str, Any], name: str) -> str:
    return _number(metrics.get(name), "{:.1%}")


class _Plain:
    """One line a step."""

    def __init__(self, total_steps: int, stream: TextIO) -> None:
        self._total = total_steps
        self._stream = stream

    def step(self, metrics: Mapping[str, Any]) -> None:
        cells = "  ".join(f"{name} {text}" for name, text in _cells(metrics).items())
        self.note(f"step {metrics['step']}/{self._total}  {cells}")

    def evaluation(self, metrics: Mapping[str, Any]) -> None:
        self.note(_evaluation_line(metrics))

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def progress(self, done: int, total: int) -> None:
        pass

    def close(self) -> None:
        self._stream.flush()


class _Live:
    """The last steps as a table above a bar for the run and one for the answers being decoded."""

    def __init__(self, total_steps: int, stream: TextIO) -> None:
        from rich.console import Console as RichConsole
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._rows: deque[tuple[str, dict[str, str]]] = deque(maxlen=_SHOWN_STEPS)
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        )
        self._steps = self._bars.add_task("steps", total=total_steps)
        self._answers = self._bars.add_task("answers", total=None)
        # A library that prints would tear the table; rich moves its lines above it.
        self._live = Live(self._view(), console=RichConsole(file=stream), refresh_per_second=4)
        self._live.start()

    def _view(self) -> Any:
        from rich.console import Group
        from rich.table import Table

        table = Table("step", *(name for name in _COLUMNS if any(name in cells for _, cells in self._rows)))
        for column in table.columns:
            column.justify = "right"
        for step, cells in self._rows:
            table.add_row(step, *(cells.get(str(column.header), "") for column in table.columns[1:]))
        return Group(table, self._bars) if self._rows else self._bars

    def step(self, metrics: Mapping[str, Any]) -> None:
        self._rows.append((str(metrics["step"]), _cells(metrics)))
        self._bars.update(self._steps, completed=metrics["step"])
        self._bars.update(self._answers, completed=0)
        self._live.update(self._view())

    def evaluation(self, metrics: Mapping[str, Any]) -> None:
        self.note(_evaluation_line(metrics))

    def note(self, text: str) -> None:
        # markup=False: text may quote a model or a file, and must not be read as markup.
        self._live.console.print(text, markup=False, highlight=False)

    def progress(self, done: int, total: int) -> None:
        self._bars.update(self._answers, completed=done, total=total)

    def close(self) -> None:
        self._live.stop()
