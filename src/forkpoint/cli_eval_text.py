"""What `forkpoint eval` prints and how it names things: results as lines, a bar, a folder for a model."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forkpoint.evaluate.runner import Result


def result_text(result: Result) -> str:
    """Return one evaluation as lines."""
    from forkpoint.analyze.text import visible

    found = result.metrics.estimates
    powers = {f"{name}@{1 << e}" for name in ("pass", "maj") for e in range(20)} | {f"maj@{result.metrics.answers[0]}"}
    lines = [f"{result.title}  {result.spec.problems} problems, {result.answers} answers of {result.model}"]
    for name, one in found.items():
        if name.partition("@")[0] in ("pass", "maj") and name not in powers:
            continue
        scale, unit = (1, "") if name.startswith(("length", "entropy", "answer entropy")) else (100, " %")
        span = f"  ({scale * one.low:.4g} to {scale * one.high:.4g})" if one.low == one.low else ""
        lines.append(f"  {name:<16} {scale * one.value:.4g}{unit}{span}")
    for name, why in result.unreadable[:10]:
        lines.append(f"  not judged       problem {name}: {why}")
    if len(result.unreadable) > 10:
        lines.append(f"  not judged       … and {len(result.unreadable) - 10} more, listed in summary.json")
    lines += [f"  note: {note}" for note in result.notes]
    return visible("\n".join([*lines, f"  written to {result.table}"]))


def benchmarks_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return the benchmarks as a table."""
    width = max(len(row["name"]) for row in rows)
    return "\n".join(
        f"{row['name']:<{width}}  {row['rows']:>5} x {row['samples']:<3} {row['verifier']:<12} {row['title']} "
        f"({row['source']}; {row['licence']})"
        for row in rows
    )


def slug(name: str) -> str:
    """Return a folder name for a model.

    >>> slug("runs/demo/checkpoints/step-00010"), slug("Qwen/Qwen3-0.6B"), slug("models/countdown/")
    ('demo-step-00010', 'Qwen3-0.6B', 'countdown')
    """
    parts = [part for part in Path(name).parts if part != "checkpoints"]
    own = parts[-2:] if parts and re.fullmatch(r"step-\d+", parts[-1]) else parts[-1:]
    return re.sub(r"[^\w.-]+", "-", "-".join(own)) or "model"


@contextlib.contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows (finished, total) on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(what, total=None)
        yield lambda finished, total: shown.update(task, completed=finished, total=total)
