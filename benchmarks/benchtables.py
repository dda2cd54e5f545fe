"""What every benchmark shares: spreads, markdown tables and result files that say what they were measured on."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return `median [min, max]`.

    >>> spread([1.0, 3.0, 2.0])
    '2.00 [1.00, 3.00]'
    """
    cells = (statistics.median(values), min(values), max(values))
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*cells, d=digits)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table; the first column is left-aligned, the others right-aligned.

    >>> print(table(["a", "b"], [["x", "1"]]))
    | a | b |
    |:--|--:|
    | x | 1 |
    """
    rule = ":--|" + "--:|" * (len(header) - 1)
    return "\n".join([f"| {' | '.join(header)} |", f"|{rule}", *(f"| {' | '.join(row)} |" for row in rows)])


def surroundings(*, threads: int) -> dict[str, Any]:
    """Return what a number was measured on: versions, processor, threads and date."""
    from forkpoint.environment import cores, versions

    return {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "device": f"cpu: {_processor()}, {cores()} cores",
        "threads": threads,
        "python": platform.python_version(),
        "versions": versions(),
    }


def write(out: Path, name: str, text: str, data: Mapping[str, Any]) -> None:
    """Write `name.md` and `name.json` under `out`, each in one piece."""
    out.mkdir(parents=True, exist_ok=True)
    for path, content in (
        (out / f"{name}.md", text + "\n"),
        (out / f"{name}.json", json.dumps(data, indent=1) + "\n"),
    ):
        partial = path.with_suffix(path.suffix + ".partial")
        partial.write_text(content, encoding="utf-8")
        os.replace(partial, path)


def heading(title: str, where: Mapping[str, Any]) -> str:
    """Return the title of a result file and the line that says what it was measured on."""
    names = ("forkpoint", "torch", "transformers", "trl")
    listed = ", ".join(f"{name} {where['versions'][name]}" for name in names if name in where["versions"])
    return (
        f"# {title}\n\n{where['date']}, {where['device']}, {where['threads']} thread; "
        f"Python {where['python']}, {listed}."
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
