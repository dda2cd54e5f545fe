"""What the commands print: results as lines for people and as JSON-ready values."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forkpoint.evaluate.grade_report import GradeReport


def accuracy_text(metrics: Mapping[str, float]) -> str:
    """Return one evaluation in words, from its `eval/…` metrics.

    >>> accuracy_text({"eval/accuracy": 0.25, "eval/accuracy_low": 0.2, "eval/accuracy_high": 0.3,
    ...                "eval/problems": 256, "eval/samples": 4})
    'accuracy 25.0 % (95 % interval 20.0 to 30.0; 256 problems x 4 answers)'
    """
    value, low, high = (100 * metrics[f"eval/accuracy{end}"] for end in ("", "_low", "_high"))
    return (
        f"accuracy {value:.1f} % (95 % interval {low:.1f} to {high:.1f}; "
        f"{metrics['eval/problems']:.0f} problems x {metrics['eval/samples']:g} answers)"
    )


def grade_summary(graded: GradeReport) -> dict[str, Any]:
    """Return what `forkpoint eval --completions` prints, JSON-ready; disagreements without their texts."""
    estimate = graded.accuracy
    return {
        "problems": len(graded.lines),
        "completions": sum(graded.counts.values()),
        "verdicts": {str(verdict): count for verdict, count in graded.counts.items()},
        "accuracy": _known(estimate.value),
        "accuracy_low": _known(estimate.low),
        "accuracy_high": _known(estimate.high),
        "pass_at_k": {str(k): value for k, value in graded.pass_at_k.items()},
        "compared": graded.compared,
        "agreed": graded.agreed,
        "disagreements": [
            {
                "line": one.line,
                "sample": one.sample,
                "gold": one.gold,
                "found": one.detail,
                "verdict": str(one.verdict),
                "recorded": one.recorded,
            }
            for one in graded.disagreements
        ],
        "unjudged": [{"line": line, "id": name, "why": why} for line, name, why in graded.unjudged],
        "notes": list(graded.notes),
        "continued": graded.continued,
    }


def grade_text(found: Mapping[str, Any], *, shown: int = 10) -> str:
    """Return a summary from `grade_summary` as lines, with the first disagreements."""
    from forkpoint.analyze.text import visible

    percent = "{:.2f} %".format
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in found["verdicts"].items())
    value, low, high = (found[f"accuracy{end}"] for end in ("", "_low", "_high"))
    span = "" if low is None else f" (95 % interval {percent(100 * low)} to {percent(100 * high)})"
    lines = [
        f"problems     {found['problems']}",
        f"completions  {found['completions']} ({verdicts})",
        f"accuracy     {'not known: nothing was judged' if value is None else percent(100 * value) + span}",
        *(f"pass@{k:<7} {percent(100 * value)}" for k, value in found["pass_at_k"].items()),
    ]
    if found["compared"]:
        lines.append(f"agreement    {found['agreed']} of {found['compared']} recorded verdicts")
    for one in found["disagreements"][:shown]:
        said = "right" if one["recorded"] else "wrong"
        lines.append(
            f"  line {one['line']}, sample {one['sample']}: {one['verdict']}, recorded {said}; "
            f"reference {one['gold']!r}, found {one['found']!r}"
        )
    for one in found["unjudged"][:shown]:
        lines.append(f"  not judged: problem {one['id']} (line {one['line']}): {one['why']}")
    if len(found["unjudged"]) > shown:
        lines.append(f"  not judged: {len(found['unjudged']) - shown} more problems, see --json")
    lines += [f"  note: {note}" for note in found["notes"]]
    if found["continued"]:
        lines.append(f"  {found['continued']} completions were graded by an earlier call that was interrupted")
    return visible("\n".join(lines))


def _known(value: float) -> float | None:
    """Return a number as JSON takes it: None for NaN."""
    return None if value != value else value


def methods_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the methods as text: name, paper, stages, what it is, equation."""
    blocks = []
    for row in rows:
        paper = f"arXiv {row['paper']}" if row.get("paper") else "no paper"
        equation = "\n".join(f"    {line}" for line in str(row.get("equation") or "").splitlines())
        given = [f"{name}={value!r}" for name, value in row["arguments"].items()]
        arguments = ", ".join([*(f"{name}=…" for name in row.get("required", ())), *given])
        parts = (
            f"{row['name']}  ({paper}; {row['stage']})",
            f"  {row['summary']}",
            equation,
            f"  arguments: {arguments or 'none'}",
        )
        blocks.append("\n".join(part for part in parts if part.strip()))
    return "\n\n".join(blocks)


def json_text(value: Any) -> str:
    """Return a value as JSON: dataclasses as objects, whatever JSON does not know as text.

    >>> print(json_text({"path": ["a"]}))
    {
      "path": [
        "a"
      ]
    }
    """

    def plain(item: Any) -> Any:
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
        return item if isinstance(item, str | int | float) else str(item)

    return json.dumps(value, indent=2, ensure_ascii=False, default=plain)
