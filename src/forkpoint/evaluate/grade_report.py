"""What grading a file of recorded completions found: counted as it comes, summed up at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from forkpoint.errors import InputError
from forkpoint.evaluate.passk import mean_pass_at_k
from forkpoint.evaluate.stats import Estimate, mean_estimate
from forkpoint.rollouts import Verdict

LISTED = 1000
"""Disagreements and unjudged problems kept with their text; all are counted."""
CODES = tuple(Verdict)


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A completion on which our verdict and the recorded one differ."""

    line: int
    sample: int
    gold: str
    detail: str
    """What was extracted, or why nothing was."""
    verdict: Verdict
    recorded: bool


@dataclass(frozen=True, kw_only=True)
class GradeReport:
    """What grading a file found. Row i of `lines`, `verdicts` and `recorded` is problem i."""

    lines: tuple[int, ...]
    """Line number of every problem, its first where several lines have its id."""
    verdicts: tuple[tuple[Verdict, ...], ...]
    """The verdict on every completion."""
    recorded: tuple[tuple[bool, ...], ...]
    """The recorded verdicts, empty where the file was read without them."""
    accuracy: Estimate
    """Over judged completions, problems as clusters."""
    pass_at_k: Mapping[int, float]
    """pass@k for k = 1, 2, 4, ... up to the smallest number of judged completions of a problem."""
    counts: Mapping[Verdict, int]
    """How many completions got each verdict."""
    agreed: int
    """Judged completions whose recorded verdict is ours."""
    compared: int
    """Judged completions with a recorded verdict."""
    disagreements: tuple[Disagreement, ...]
    """Where the two differ, the first `LISTED` of them."""
    unjudged: tuple[tuple[int, str, str], ...] = ()
    """Problems with a completion that was not judged: line, id, and why; the first `LISTED` of them."""
    notes: tuple[str, ...] = ()
    """What a reader has to know."""
    continued: int = field(default=0, compare=False)
    """Completions that an earlier, interrupted call had graded."""

    @property
    def agreement(self) -> float:
        """Share of compared completions on which both agree, NaN where none was compared."""
        return self.agreed / self.compared if self.compared else math.nan


@dataclass(kw_only=True)
class Tally:
    """What was found so far, a byte a completion."""

    source: str
    problems: dict[str, int] = field(default_factory=dict)
    lines: list[int] = field(default_factory=list)
    golds: list[int] = field(default_factory=list)
    verdicts: list[bytearray] = field(default_factory=list)
    recorded: list[bytearray] = field(default_factory=list)
    agreed: int = 0
    compared: int = 0
    disagreements: list[Disagreement] = field(default_factory=list)
    unjudged: dict[str, tuple[int, str, str]] = field(default_factory=dict)


def count(tally: Tally, columns: Mapping[str, list[Any]]) -> None:
    """Take judged completions into account.

    Raises:
        InputError: two lines with the same id have different references.
    """
    for line, name, sample, verdict, said, crc, gold, detail in zip(
        *(
            columns[key]
            for key in ("line", "problem_id", "sample", "verdict", "recorded", "gold_crc", "gold", "detail")
        ),
        strict=True,
    ):
        index = tally.problems.setdefault(name, len(tally.lines))
        if index == len(tally.lines):
            tally.lines.append(line)
            tally.golds.append(crc)
            tally.verdicts.append(bytearray())
            tally.recorded.append(bytearray())
        elif tally.golds[index] != crc:
            raise InputError(
                f"{tally.source}, line {line}: the id {name!r} is that of line {tally.lines[index]}, which has another "
                "reference: give every problem an id of its own"
            )
        found = Verdict(verdict)
        tally.verdicts[index].append(CODES.index(found))
        if found is Verdict.UNJUDGED and len(tally.unjudged) < LISTED:
            tally.unjudged.setdefault(name, (tally.lines[index], name, detail or ""))
        if said is None:
            continue
        tally.recorded[index].append(said)
        if found is Verdict.UNJUDGED:
            continue
        tally.compared += 1
        tally.agreed += (found is Verdict.RIGHT) == bool(said)
        if (found is Verdict.RIGHT) != bool(said) and len(tally.disagreements) < LISTED:
            tally.disagreements.append(
                Disagreement(line=line, sample=sample, gold=gold, detail=detail, verdict=found, recorded=bool(said))
            )


def report(tally: Tally, level: float, before: int) -> GradeReport:
    """Return the report on everything that was counted.

    Args:
        tally: what was counted.
        level: coverage of the interval.
        before: completions that an earlier call had graded.
    """
    right, unjudged = CODES.index(Verdict.RIGHT), CODES.index(Verdict.UNJUDGED)
    counts = [(len(row) - row.count(unjudged), row.count(right)) for row in tally.verdicts]
    judged = [(n, c) for n, c in counts if n]
    smallest = min((n for n, _ in judged), default=0)
    sizes = sorted({len(row) for row in tally.verdicts})
    notes = [f"Problems have from {sizes[0]} to {sizes[-1]} completions; they weigh the same, and pass@k ends at "
             f"k = {smallest}."] if len(sizes) > 1 else []  # fmt: skip
    return GradeReport(
        lines=tuple(tally.lines),
        verdicts=tuple(tuple(CODES[code] for code in row) for row in tally.verdicts),
        recorded=tuple(tuple(map(bool, row)) for row in tally.recorded) if any(tally.recorded) else (),
        accuracy=mean_estimate([c / n for n, c in judged], samples=sum(n for n, _ in judged), level=level),
        pass_at_k={1 << e: mean_pass_at_k(judged, 1 << e) for e in range(smallest.bit_length())},
        counts={verdict: sum(row.count(code) for row in tally.verdicts) for code, verdict in enumerate(CODES)},
        agreed=tally.agreed,
        compared=tally.compared,
        disagreements=tuple(tally.disagreements),
        unjudged=tuple(tally.unjudged.values()),
        notes=tuple(notes),
        continued=before,
    )
