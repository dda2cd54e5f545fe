"""What a run should have left by its own recipe and has not."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

from forkpoint.analyze.rundata import RunData, number, step_of

_FOLDER = re.compile(r"step-(\d+)")


def gaps(run: RunData) -> list[str]:
    """Return what a run should have by its own recipe and has not, one sentence each.

    Steps without a metric line, steps whose rollouts or evaluation were to be kept and are not there, and the newest
    checkpoint of a run that came past the first saving.
    """
    recipe = _inner(run.recipe, "recipe")
    steps = {record["step"] for record in run.metrics}
    last = max(steps, default=0)
    notes = []
    if absent := _absent(range(1, last + 1), steps):
        notes.append(f"metrics.jsonl has no line for step {absent}, so the curves have gaps.")
    kept, files = _whole(_inner(recipe, "log").get("rollouts_every")), {step_of(path) for path in run.rollout_files}
    if kept and files and (absent := _absent(range(kept, last + 1, kept), files)):
        notes.append(f"There is no rollout file for step {absent}.")
    every = _whole(_inner(recipe, "checkpoint").get("every"))
    saved = last // every * every if every else 0
    folders = (run.path / "checkpoints").glob("step-*")
    found = [int(match[1]) for path in folders if (match := _FOLDER.fullmatch(path.name))]
    if saved and max(found, default=0) < saved:
        rest = f"the newest one is of step {max(found)}" if found else "there is none"
        notes.append(f"The checkpoint of step {saved} is missing; {rest}.")
    return notes


def _inner(value: dict[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _whole(value: object) -> int:
    found = number(value)
    return int(found) if found >= 1 and math.isfinite(found) else 0


def _absent(wanted: range, have: set[int], most: int = 6) -> str:
    """Return the wanted numbers that are not there as text, long lists cut short.

    >>> _absent(range(1, 6), {2}, most=2)
    '1, 3 and 2 more'
    """
    count = len(wanted) - sum(step in wanted for step in have)
    first = list(itertools.islice((step for step in wanted if step not in have), most)) if count else []
    rest = count - len(first)
    return ", ".join(map(str, first)) + (f" and {rest} more" if rest else "")
