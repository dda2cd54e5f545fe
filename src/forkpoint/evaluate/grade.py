"""Grade recorded completions: read JSONL, judge every answer, count, compare with recorded verdicts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from forkpoint.errors import InputError, did_you_mean
from forkpoint.evaluate.passk import mean_pass_at_k
from forkpoint.evaluate.stats import Estimate, accuracy
from forkpoint.evaluate.store import EXTRACTED, graded_writer, utf8
from forkpoint.rollouts import Judgement, Prompt, Verdict
from forkpoint.verify.extract import EXTRACTIONS

Judge = Callable[[Sequence[Prompt], Sequence[str]], list[Judgement]]
Keep = Callable[["list[Recorded]", "list[list[Judgement]]"], None]

CHUNK = 64
"""Problems judged at a time: texts of one chunk are all that is held in memory."""
LISTED = 1000
"""Disagreements kept with their text; all are counted."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One line of a file of recorded completions."""

    line: int
    """Line number in the file, from 1."""
    id: str
    """The problem's id; the line number where no such field was named."""
    question: str
    """The problem as text, empty where no such field was named."""
    gold: str
    """The reference answer, as the file has it."""
    completions: tuple[str, ...]
    verdicts: tuple[bool, ...] | None
    """What the file says of each completion, where it does."""


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
    """Line number of every problem."""
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

    @property
    def agreement(self) -> float:
        """Share of compared completions on which both agree, NaN where none was compared."""
        return self.agreed / self.compared if self.compared else math.nan


def grade_file(
    path: str | Path,
    *,
    answer: str,
    completion: str,
    question: str | None = None,
    recorded: str | None = None,
    id: str | None = None,
    out: str | Path | None = None,
    extraction: str = "boxed",
    gold_extraction: str = "auto",
    judge: Judge | None = None,
    level: float = 0.95,
) -> GradeReport:
    """Grade the completions of a JSONL file, one problem a line.

    Fields are dotted paths (`6b_verification.solution`); a path that meets a list applies to each element.

    Args:
        path: The file.
        answer: Field with the reference answer, or a whole solution that ends in it.
        completion: Field with one completion or a list of them.
        question: Field with the problem, for judges that read it.
        recorded: Field with the recorded verdict: a bool, or a list as long as the completions.
        id: Field that names a problem.
        out: Parquet file for what every completion is worth, without its text; `forkpoint compare` reads it.
        extraction: Where the answer stands in a completion, see `forkpoint.verify.extract.EXTRACTIONS`.
        gold_extraction: Where it stands in the reference.
        judge: Any verifier in place of mathematics; it ignores both extractions.
        level: Coverage of the interval.

    Returns:
        Verdicts, accuracy with its interval, pass@k, and the agreement with the recorded verdicts.

    Raises:
        InputError: For a file that cannot be read, is empty, or has a bad line, which is named.
    """
    rows = read_recorded(path, answer=answer, completion=completion, question=question, recorded=recorded, id=id)
    with ExitStack() as stack:
        keep = None
        if out is not None:
            if Path(out).suffix != ".parquet":
                raise InputError(f"graded completions are written as parquet: give a name that ends so, not {out}")
            write = stack.enter_context(graded_writer(Path(out)))
            extract = EXTRACTIONS.get(extraction) if judge is None else None
            keep = _keeper(write, extract)
        if judge is None:
            from forkpoint.verify.math import math_judge

            judge = stack.enter_context(math_judge(extraction=extraction, gold_extraction=gold_extraction))
        return _grade(rows, judge, level, keep)


def read_recorded(
    path: str | Path,
    *,
    answer: str,
    completion: str,
    question: str | None = None,
    recorded: str | None = None,
    id: str | None = None,
) -> Iterator[Recorded]:
    """Yield the problems of a JSONL file one after the other; see `grade_file` for the fields.

    Raises:
        InputError: While reading, for the first line that does not fit.
    """
    empty = True
    try:
        with Path(path).open("rb") as file:
            for line, raw in enumerate(file, start=1):
                if not raw.strip():
                    continue
                empty = False
                where = f"{path}, line {line}"
                row = _object(raw, where)
                completions = _texts(_field(row, completion, where), completion, where)
                yield Recorded(
                    line=line,
                    id=_gold(_field(row, id, where), id, where) if id else str(line),
                    question=_text(_field(row, question, where), question, where) if question else "",
                    gold=_gold(_field(row, answer, where), answer, where),
                    completions=completions,
                    verdicts=_bools(_field(row, recorded, where), recorded, len(completions), where)
                    if recorded
                    else None,
                )
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give the path of a JSONL file") from error
    if empty:
        raise InputError(f"{path} has no line to grade: it must hold one JSON object a line")


def _keeper(write: Callable[[Mapping[str, Any]], None], extract: Callable[[str], str | None] | None) -> Keep:
    """Return a function that writes what the completions of a chunk are worth."""

    def keep(chunk: list[Recorded], judged: list[list[Judgement]]) -> None:
        rows = [
            (row.id, sample, judgement, extract(text) if extract is not None else None)
            for row, judgements in zip(chunk, judged, strict=True)
            for sample, (judgement, text) in enumerate(zip(judgements, row.completions, strict=True))
        ]
        write(
            {
                "problem_id": [row[0] for row in rows],
                "sample": [row[1] for row in rows],
                "verdict": [str(row[2].verdict) for row in rows],
                "extracted": [utf8(row[3][:EXTRACTED]) if row[3] is not None else None for row in rows],
                "has_answer": [int(row[3] is not None) if extract is not None else None for row in rows],
            }
        )

    return keep


def _grade(rows: Iterator[Recorded], judge: Judge, level: float, keep: Keep | None = None) -> GradeReport:
    """Judge all rows chunk by chunk and count."""
    lines: list[int] = []
    verdicts: list[tuple[Verdict, ...]] = []
    recorded: list[tuple[bool, ...]] = []
    disagreements: list[Disagreement] = []
    agreed = compared = 0
    while chunk := list(islice(rows, CHUNK)):
        judged = list(_judge_chunk(chunk, judge))
        if keep is not None:
            keep(chunk, judged)
        for row, judgements in zip(chunk, judged, strict=True):
            lines.append(row.line)
            verdicts.append(tuple(judgement.verdict for judgement in judgements))
            if row.verdicts is None:
                continue
            recorded.append(row.verdicts)
            differing = _disagreements(row, judgements)
            told = sum(verdict is not Verdict.UNJUDGED for verdict in verdicts[-1])
            compared += told
            agreed += told - len(differing)
            disagreements += differing[: LISTED - len(disagreements)]
    flat = [verdict for row in verdicts for verdict in row]
    problems = [index for index, row in enumerate(verdicts) for _ in row]
    return GradeReport(
        lines=tuple(lines),
        verdicts=tuple(verdicts),
        recorded=tuple(recorded),
        accuracy=accuracy(problems, [_value(verdict) for verdict in flat], level=level),
        pass_at_k=_pass_at_powers(verdicts),
        counts={verdict: flat.count(verdict) for verdict in Verdict},
        agreed=agreed,
        compared=compared,
        disagreements=tuple(disagreements),
    )


def _judge_chunk(chunk: list[Recorded], judge: Judge) -> Iterator[list[Judgement]]:
    """Yield the judgements of every problem of a chunk, all judged in one call."""
    prompts = [Prompt(id=str(row.line), text=row.question, answer=row.gold) for row in chunk for _ in row.completions]
    judgements = iter(judge(prompts, [text for row in chunk for text in row.completions]))
    for row in chunk:
        yield list(islice(judgements, len(row.completions)))


def _disagreements(row: Recorded, judgements: list[Judgement]) -> list[Disagreement]:
    return [
        Disagreement(
            line=row.line,
            sample=sample,
            gold=row.gold,
            detail=judgement.detail,
            verdict=judgement.verdict,
            recorded=said,
        )
        for sample, (judgement, said) in enumerate(zip(judgements, row.verdicts or (), strict=True))
        if judgement.verdict is not Verdict.UNJUDGED and (judgement.verdict is Verdict.RIGHT) is not said
    ]


def _value(verdict: Verdict) -> float:
    return math.nan if verdict is Verdict.UNJUDGED else float(verdict is Verdict.RIGHT)


def _pass_at_powers(verdicts: list[tuple[Verdict, ...]]) -> dict[int, float]:
    """Return pass@1, 2, 4, ... over the problems with a judged completion."""
    counts = [(len(row) - row.count(Verdict.UNJUDGED), row.count(Verdict.RIGHT)) for row in verdicts]
    counts = [(judged, right) for judged, right in counts if judged]
    smallest = min((judged for judged, _ in counts), default=0)
    return {1 << e: mean_pass_at_k(counts, 1 << e) for e in range(smallest.bit_length())}


def _object(raw: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(raw)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON ({error}); every line must be one JSON object") from error
    except RecursionError as error:
        raise InputError(f"{where}: JSON nested too deeply to read") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: a JSON {type(row).__name__}, but every line must be one JSON object")
    return row


def _field(value: Any, path: str, where: str) -> Any:
    """Follow a dotted path; a key that holds the whole remaining path comes first, a list is mapped over."""
    if isinstance(value, list):
        return [_field(element, path, where) for element in value]
    if not isinstance(value, dict):
        raise InputError(f"{where}: no field {path!r} inside a {type(value).__name__}; name a field of an object")
    if path in value:
        return value[path]
    head, dot, rest = path.partition(".")
    if head not in value or not dot:
        raise InputError(f"{where}: no field {head!r}; {did_you_mean(head, value)}")
    return _field(value[head], rest, where)


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: field {name!r} is a {type(value).__name__}, but text was expected")
    return value


def _texts(value: Any, name: str, where: str) -> tuple[str, ...]:
    """Return one completion or a list of them as a tuple."""
    texts = value if isinstance(value, list) else [value]
    if not texts:
        raise InputError(f"{where}: field {name!r} is an empty list, but at least one completion is needed")
    return tuple(_text(text, name, where) for text in texts)


def _gold(value: Any, name: str, where: str) -> str:
    """Return a reference as text: a string, a number, or a list of these as one answer with commas."""
    if isinstance(value, list):
        return ", ".join(_gold(element, name, where) for element in value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return _text(value, name, where)


def _bools(value: Any, name: str, count: int, where: str) -> tuple[bool, ...]:
    """Return the recorded verdicts, one a completion."""
    verdicts = value if isinstance(value, list) else [value]
    if len(verdicts) != count:
        raise InputError(f"{where}: field {name!r} has {len(verdicts)} verdicts for {count} completions")
    for verdict in verdicts:
        if verdict not in (0, 1) or not isinstance(verdict, int | float):
            raise InputError(f"{where}: field {name!r} holds {verdict!r}, but true, false, 1 or 0 was expected")
    return tuple(bool(verdict) for verdict in verdicts)
