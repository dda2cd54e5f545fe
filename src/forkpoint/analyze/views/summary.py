"""What a report says first: what was run, what it changed, and where the time went."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from forkpoint.analyze.rundata import RunData, number, read_rollouts, series, step_of, table_rows
from forkpoint.errors import InputError
from forkpoint.evaluate import stats
from forkpoint.evaluate.paired import paired_test

if TYPE_CHECKING:
    from pyarrow import Table

_PHASES = ("decode", "verify", "credit", "update")


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One line of the summary: before, after, and the small print under them."""

    label: str
    before: str
    after: str = ""
    detail: str = ""


def header(run: RunData) -> dict[str, Any]:
    """Return what was run: name, method, chain, model, task, seed, device, commit, versions."""
    recipe = run.recipe.get("recipe")
    recipe = recipe if isinstance(recipe, dict) else {}
    versions = run.recipe.get("versions")
    chain = run.recipe.get("chain")
    credit = recipe.get("credit")
    method = "a chain of its own" if isinstance(credit, list) else _called(credit).removesuffix("()")
    return {
        "name": _called(recipe.get("name")) or run.path.name,
        "method": method or "not recorded",
        "chain": [_called(link) for link in chain] if isinstance(chain, list) else [],
        "model": _named(recipe.get("model")) or "not recorded",
        "task": _named(recipe.get("task")) or "not recorded",
        "seed": _called(run.recipe.get("seed", recipe.get("seed"))) or "not recorded",
        "device": _called(run.recipe.get("device")) or "not recorded",
        "commit": _called(run.recipe.get("commit")) or "not recorded",
        "versions": {str(k): _called(v) for k, v in versions.items()} if isinstance(versions, dict) else {},
    }


def _named(value: object) -> str:
    """Return what a table of the recipe is about, such as the path of `[model]`, without its settings."""
    if not isinstance(value, Mapping):
        return _called(value)
    parts = [value.get(key) for key in ("name", "path", "revision", "train")]
    return " · ".join(part for part in parts if isinstance(part, str)) or _called(value)


def _called(value: object) -> str:
    """Return a recipe value as a short text: `forking(share=0.2)` for a method or a link with arguments."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    key = next((k for k in ("link", "method", "name") if isinstance(value.get(k), str)), None)
    arguments = value.get("arguments", {k: v for k, v in value.items() if k != key})
    if not isinstance(arguments, Mapping):
        return json.dumps(value, ensure_ascii=False)
    inside = ", ".join(f"{k}={_called(v)}" for k, v in arguments.items() if v is not None)
    return f"{value[key]}({inside})" if key else inside


def facts(run: RunData) -> list[Fact]:
    """Return the summary of a run, the lines it has no numbers for left out."""
    found = _accuracy_facts(run)
    for label, name, form in (
        ("Reward", "reward/mean", ".3f"),
        ("Answer length", "length/mean", ".1f"),
        ("Entropy, nats", "entropy/mean", ".3f"),
        ("Entropy, at least, nats", "entropy_lower_bound/mean", ".3f"),
    ):
        values = series(run.metrics, name)
        values = values[np.isfinite(values)]
        if values.size:
            found.append(
                Fact(
                    label=label,
                    before=f"{values[0]:{form}}",
                    after=f"{values[-1]:{form}}" if values.size > 1 else "",
                    detail="mean of a training batch, first and last step",
                )
            )
    share = series(run.metrics, "credit/share")
    if np.isfinite(share).any():
        cut = series(run.metrics, "credit/threshold")
        shown = f"; cut at {np.nanmean(cut):.3f} nats" if np.isfinite(cut).any() else ""
        found.append(
            Fact(
                label="Tokens credited",
                before=percent(float(np.nanmean(share))),
                detail=f"mean over steps{shown}",
            )
        )
    if run.metrics:
        learned, spent = (
            np.nansum(series(run.metrics, "tokens/learned")),
            np.nansum(series(run.metrics, "time/step")),
        )
        detail = f"up to step {run.metrics[-1]['step']}; {learned:,.0f} tokens learned on; {seconds(spent)}"
        found.append(Fact(label="Training steps", before=f"{len(run.metrics):,}", detail=detail))
    return found


def percent(share: float) -> str:
    r"""Return a share as text with a no-break space, `n/a` for NaN.

    >>> percent(0.256).replace("\xa0", " ")
    '25.6 %'
    """
    return f"{100 * share:.1f}\u00a0%" if math.isfinite(share) else "n/a"


def _accuracy_facts(run: RunData) -> list[Fact]:
    rows = [e for e in run.evaluations if math.isfinite(number(e.get("eval/accuracy")))]
    if not rows:
        return []
    first, last = (
        tuple(number(row.get(f"eval/accuracy{end}")) for end in ("", "_low", "_high")) for row in (rows[0], rows[-1])
    )
    problems = number(rows[-1].get("eval/problems"))
    size = f" on {problems:,.0f} held-out problems" if math.isfinite(problems) else ""
    detail = f"95 % intervals {percent(first[1])} to {percent(first[2])}"
    if len(rows) == 1:
        return [
            Fact(
                label="Accuracy",
                before=percent(first[0]),
                detail=f"{detail}{size}; only one evaluation so far",
            )
        ]
    accuracy = Fact(
        label="Accuracy",
        before=percent(first[0]),
        after=percent(last[0]),
        detail=f"{detail}, {percent(last[1])} to {percent(last[2])}{size}",
    )
    difference, low, high, how = _difference(run, rows, first, last)
    points = f"{100 * difference:+.1f} points"
    interval = f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}, {how}"
    return [accuracy, Fact(label="Difference", before=points, detail=interval)]


def _difference(
    run: RunData, rows: list[dict[str, Any]], first: Sequence[float], last: Sequence[float]
) -> tuple[float, float, float, str]:
    files = {step_of(path): path for path in run.eval_files}
    pair = [files[row["step"]] for row in (rows[0], rows[-1]) if row["step"] in files]
    if len(pair) == 2:
        try:
            paired = paired_difference(*(read_rollouts(path, ["prompt_id", "verdict"]) for path in pair))
        except InputError:
            paired = (math.nan,) * 3
        # Answers that do not explain the recorded accuracies are of something else.
        if abs(paired[0] - (last[0] - first[0])) < 5e-4 and paired[1] < paired[2]:
            return (*paired, "paired by problem")
    return (*stats.unpaired_difference(first, last), "as if the problems were independent")


def times(run: RunData) -> list[tuple[str, float, str]]:
    """Return phase, share of the training time and duration in words; empty if no times were recorded."""
    parts = {name: float(np.nansum(series(run.metrics, f"time/{name}"))) for name in _PHASES}
    other = float(np.nansum(series(run.metrics, "time/step"))) - sum(parts.values())
    if other > 0:
        parts["other"] = other
    total = sum(parts.values())
    return [(name, spent / total, seconds(spent)) for name, spent in parts.items()] if total > 0 else []


def seconds(spent: float) -> str:
    """Return a duration in words.

    >>> seconds(3.14), seconds(90), seconds(600)
    ('3.1 s', '90 s', '10.0 min')
    """
    if spent < 120:
        return f"{spent:.1f} s" if spent < 10 else f"{spent:.0f} s"
    return f"{spent / 60:.1f} min" if spent < 7200 else f"{spent / 3600:.1f} h"


def paired_difference(before: Table, after: Table) -> tuple[float, float, float]:
    """Return the change in accuracy on the problems both evaluations judged, with the 95 % interval of `paired_test`.

    The mean over problems of `accuracy after - accuracy before`, each the share of right answers among the
    judged ones, so the spread between problems does not widen the interval.

    Args:
        before: Evaluation with columns `prompt_id` and `verdict`.
        after: The same of a later step.

    Returns:
        Difference, low, high; NaN for all below two shared problems.

    Raises:
        InputError: Where no problem is shared.
    """
    found = paired_test(*_verdicts(after), *_verdicts(before)).difference
    if found.problems < 2:
        return math.nan, math.nan, math.nan
    return found.value, found.low, found.high


def _verdicts(table: Table) -> tuple[list[str], list[float]]:
    """Return the problem and value of every judged answer."""
    rows = table_rows(table.select(["prompt_id", "verdict"]), range(table.num_rows))
    judged = [row for row in rows if row["verdict"] in ("right", "wrong")]
    return [str(row["prompt_id"]) for row in judged], [float(row["verdict"] == "right") for row in judged]
