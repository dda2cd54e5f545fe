"""Mirrors of `metrics.jsonl`: trackio, wandb and tensorboard, imported only when a recipe names them."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from forkpoint.errors import InputError, did_you_mean


class Tracker(Protocol):
    """Where metrics are shown besides the run directory."""

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Show one line of metrics."""

    def table(self, name: str, rows: Sequence[Mapping[str, str]], step: int) -> None:
        """Show a few rows of text, all with the same keys."""

    def finish(self) -> None:
        """Write out what is pending."""


def make_tracker(
    names: Sequence[str],
    *,
    run_dir: Path,
    recipe: Mapping[str, Any],
    report: Callable[[str], None],
    project: str = "forkpoint",
) -> Tracker:
    """Return one tracker that feeds all the named ones; with no names it does nothing.

    A tracker that fails is reported once and left alone afterwards: a mirror must not end a run.

    Args:
        names: any of `tensorboard`, `trackio`, `wandb`.
        run_dir: names the run; tensorboard writes below it.
        recipe: shown as the run's configuration.
        report: told once about every tracker that fails.
        project: what trackio and wandb file the run under.

    Raises:
        InputError: an unknown name, or a package that is not installed.
    """
    starters: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: _TensorBoard(run_dir),
        "trackio": lambda: _Trackio("trackio", project, run_dir.name, recipe),
        "wandb": lambda: _Wandb("wandb", project, run_dir.name, recipe),
    }
    for name in names:
        if name not in starters:
            raise InputError(f"unknown tracker {name!r}; {did_you_mean(name, starters)}")
        try:
            importlib.import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
        except ImportError as error:
            raise InputError(
                f"tracker {name!r} is not installed; run `pip install {name}` or remove it from `trackers`"
            ) from error
    return _Guarded({name: starters[name] for name in names}, report)


class _Guarded:
    """Feeds every tracker and drops one that fails."""

    def __init__(self, starters: Mapping[str, Callable[[], Tracker]], report: Callable[[str], None]) -> None:
        self._report = report
        self._live: dict[str, Any] = {}
        for name, start in starters.items():
            self._try(name, partial(self._start, name, start))

    def _start(self, name: str, start: Callable[[], Tracker]) -> None:
        self._live[name] = start()

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # whatever a service raises, training goes on
            self._live.pop(name, None)
            first = (str(error).splitlines() or [""])[0]
            self._report(f"tracker {name} failed and is left out from here on: {type(error).__name__}: {first}")

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        for name, tracker in list(self._live.items()):
            self._try(name, partial(tracker.log, metrics, step))

    def table(self, name: str, rows: Sequence[Mapping[str, str]], step: int) -> None:
        for key, tracker in list(self._live.items()):
            self._try(key, partial(tracker.table, name, rows, step))

    def finish(self) -> None:
        for name, tracker in list(self._live.items()):
            self._try(name, tracker.finish)


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    values = {k: v.item() if hasattr(v, "item") else v for k, v in metrics.items()}
    return {k: v for k, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}


class _TensorBoard:
    def __init__(self, run_dir: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(run_dir / "tensorboard"))

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        for name, value in _numbers(metrics).items():
            self._writer.add_scalar(name, value, step)

    def table(self, name: str, rows: Sequence[Mapping[str, str]], step: int) -> None:
        # Indented text is shown as it is; anything else would be read as markup.
        blocks = ["\n".join(f"{k}: {v}" for k, v in row.items()) for row in rows]
        text = "\n\n".join(block.replace("\n", "\n    ") for block in blocks)
        self._writer.add_text(name, "    " + text, step)

    def finish(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, package: str, project: str, run: str, recipe: Mapping[str, Any]) -> None:
        self._package = importlib.import_module(package)
        self._package.init(project=project, name=run, config=dict(recipe))

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        self._package.log(_numbers(metrics), step=step)

    def _table(self, rows: Sequence[Mapping[str, str]]) -> Any:
        return self._package.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])

    def table(self, name: str, rows: Sequence[Mapping[str, str]], step: int) -> None:
        if rows:
            self._package.log({name: self._table(rows)}, step=step)

    def finish(self) -> None:
        self._package.finish()


class _Trackio(_Wandb):
    def _table(self, rows: Sequence[Mapping[str, str]]) -> Any:
        pandas: Any = importlib.import_module("pandas")  # trackio depends on it
        return self._package.Table(dataframe=pandas.DataFrame([dict(row) for row in rows]))
