"""What every benchmark shares: turns on a clock, spreads, markdown tables, result files that say what they ran on."""

from __future__ import annotations

import datetime
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
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


def surroundings(*, threads: int, device: str = "cpu", packages: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a number was measured on: versions, processor or GPU, threads and date.

    `packages` are distributions to name beside the usual ones, where they are installed.
    """
    from forkpoint.environment import cores, versions

    found = versions()
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "device": f"cpu: {_processor()}, {cores()} cores" if device == "cpu" else f"cuda: {_gpu()}",
        "threads": threads,
        "python": platform.python_version(),
        "versions": found,
    }


def cpu_seconds(run: Callable[[], object]) -> float:
    """Return the CPU time that a call takes of this process, all its threads together."""
    start = time.process_time()
    run()
    return time.process_time() - start


def cuda_seconds(run: Callable[[], object]) -> float:
    """Return the time between two CUDA events around a call. Not run on a GPU yet."""
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def in_turn(
    runs: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int,
    clock: Callable[[Callable[[], object]], float],
    before: Callable[[], object] = lambda: None,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Return the seconds of every run in every round; each round has all of them once, in shuffled order.

    Entry i of every list is of the same round, so ratios are taken entry by entry. `before` runs untimed each time.
    """
    order, shuffled = list(runs), random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(-warmup, rounds):
        shuffled.shuffle(order)
        for name in order:
            before()
            taken = clock(runs[name])
            if turn >= 0:
                seconds[name].append(taken)
    return seconds


def copies(device: str) -> tuple[Callable[[], object], int]:
    """Return a copy of a buffer much larger than the caches, and how many bytes it reads and writes."""
    import torch

    size = 1 << (26 if device == "cpu" else 28)
    source, target = torch.ones(size, device=device), torch.zeros(size, device=device).add_(1)
    return lambda: target.copy_(source), 2 * 4 * size


def ratios(top: Sequence[float], bottom: Sequence[float]) -> list[float]:
    """Return the ratio of every round.

    >>> ratios([4.0, 9.0], [2.0, 3.0])
    [2.0, 3.0]
    """
    return [a / b for a, b in zip(top, bottom, strict=True)]


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
    names = ("forkpoint", "torch", "transformers", "trl", "liger-kernel", "verl", "triton")
    listed = ", ".join(f"{name} {where['versions'][name]}" for name in names if name in where["versions"])
    return (
        f"# {title}\n\n{where['date']}, {where['device']}, {where['threads']} thread; "
        f"Python {where['python']}, {listed}."
    )


def _gpu() -> str:
    import torch

    tool = shutil.which("nvidia-smi")
    if tool is None:
        return torch.cuda.get_device_name()
    query = "--query-gpu=name,driver_version,clocks.sm,clocks.max.sm,power.limit"
    done = subprocess.run([tool, query, "--format=csv,noheader"], capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 else torch.cuda.get_device_name()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
