"""Grade recorded completions: read JSONL, judge every answer, count, compare with recorded verdicts."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from forkpoint.environment import versions
from forkpoint.errors import InputError, did_you_mean
from forkpoint.evaluate import parts
from forkpoint.evaluate.grade_report import GradeReport, Tally, count, report
from forkpoint.evaluate.judges import VERIFIERS, close, unreadable
from forkpoint.evaluate.recorded import Place, Recorded, place_at, read_recorded
from forkpoint.evaluate.store import EXTRACTED, utf8
from forkpoint.rollouts import Judgement, Prompt, Verdict
from forkpoint.train.files import only_writer, output_path
from forkpoint.verify.extract import EXTRACTIONS

Judge = Callable[[Sequence[Prompt], Sequence[str]], list[Judgement]]

CHUNK = 64
"""Problems judged at a time: texts of one chunk are all that is held in memory."""
EMPTY = ("no box", "no answer", "empty box")
"""Details of completions that are wrong whatever the reference is."""
PART = 256
"""Completions after which what was judged is written: what a killed process loses, the chunk under way aside."""


def grade_file(
    path: str | Path,
    *,
    answer: str,
    completion: str,
    question: str | None = None,
    recorded: str | None = None,
    id: str | None = None,
    out: str | Path | None = None,
    fresh: bool = False,
    extraction: str = "boxed",
    gold_extraction: str | None = None,
    verifier: str = "math",
    judge: Judge | None = None,
    level: float = 0.95,
) -> GradeReport:
    """Grade the completions of a JSONL file, one problem a line, or several lines with its id.

    Fields are dotted paths (`6b_verification.solution`); a path that meets a list applies to each element. With `out`,
    what was judged is written as it is found, and a call that was stopped goes on where it was when it is made again.

    Args:
        path: The file; packed with gzip where its name ends in `.gz`.
        answer: Field with the reference answer, or a whole solution that ends in it.
        completion: Field with one completion or a list of them.
        question: Field with the problem, for judges that read it.
        recorded: Field with the recorded verdict: a bool, or a list as long as the completions.
        id: Field that names a problem.
        out: Parquet file for what every completion is worth, without its text; `forkpoint compare` reads it.
        fresh: Move what is there aside, a half or a table, and grade everything.
        extraction: Where the answer stands in a completion, see `forkpoint.verify.extract.EXTRACTIONS`.
        gold_extraction: Where it stands in the reference; where the verifier looks by itself if not given.
        verifier: Its name; both extractions are for those that have them.
        judge: Any other verifier in its place.
        level: Coverage of the interval.

    Returns:
        Verdicts, accuracy with its interval, pass@k, and the agreement with the recorded verdicts.

    Raises:
        InputError: For a file that cannot be read, is empty, or has a bad line, which is named; or where `out` holds
            another grading, finished or not, or is written by another process.
    """
    path, out = Path(path), Path(out) if out is not None else None
    if out is not None and out.suffix != ".parquet":
        raise InputError(f"graded completions are written as parquet: give a name that ends so, not {out}")
    conditions = {
        "answer": answer, "completion": completion, "question": question, "recorded": recorded, "id": id,
        "extraction": extraction, "gold_extraction": gold_extraction,
        "verifier": "given" if judge is not None else f"{verifier}, math-verify {versions().get('math-verify')}",
    }  # fmt: skip
    tally = Tally(source=str(path))
    with ExitStack() as stack:
        if out is not None:
            output_path(out, [path])
            stack.enter_context(only_writer(parts.folder_of(out)))
        extract, named = None, judge is None
        if judge is None:
            judge, extracts = _verifier(verifier, extraction, gold_extraction)
            stack.callback(close, judge)
            extract = EXTRACTIONS[extraction] if extracts else None
        state = parts.begin(path, out, conditions, fresh=fresh) if out is not None else parts.State()
        if out is not None:
            for columns in parts.read_parts(out, state.parts):
                count(tally, columns)
        before = sum(map(len, tally.verdicts))
        place = place_at(path, state.line, state.bytes, state.sha256) if state.line else Place()
        rows = read_recorded(
            path, answer=answer, completion=completion, question=question, recorded=recorded, id=id, place=place
        )
        if out is None:
            for columns in _judged(rows, judge, None, tally, probes=named):
                count(tally, columns)
        else:
            _keep(out, conditions, state, _judged(rows, judge, extract, tally, probes=named), tally, place)
    return report(tally, level, before)


def _verifier(name: str, extraction: str, gold_extraction: str | None) -> tuple[Judge, bool]:
    """Return a verifier by name, and whether it takes answers out of texts."""
    if name not in VERIFIERS:
        raise InputError(f"unknown verifier {name!r}: {did_you_mean(name, VERIFIERS)}")
    known = inspect.signature(VERIFIERS[name]).parameters
    given = {"extraction": extraction, "gold_extraction": gold_extraction}
    settings = {key: value for key, value in given.items() if key in known and value is not None}
    return VERIFIERS[name](**settings), "extraction" in known


@dataclass(frozen=True, kw_only=True)
class _At:
    """How far a grading is."""

    number: int
    """Of the part to be written next."""
    place: Place
    """Up to which the file is graded."""
    held: Mapping[str, list[Any]] = field(default_factory=lambda: {name: [] for name in parts.COLUMNS})
    """What is graded and not written."""


def _keep(
    out: Path, conditions: Mapping[str, str | None], state: parts.State, judged: Iterator[dict[str, list[Any]]],
    tally: Tally, place: Place,
) -> None:  # fmt: skip
    """Count what is judged and write it, a part at a time, and at the end the table."""
    # One value: whenever an interrupt comes, completions are with their own part and place, so that what is written
    # already is written again as the same part.
    at = _At(number=state.parts, place=place.copy())

    def write() -> None:
        nonlocal at
        if at.held["line"]:
            parts.write_part(out, at.number, at.held)
            parts.write_state(out, conditions, parts.state_of(at.place, at.number + 1))
            at = _At(number=at.number + 1, place=at.place)

    try:
        for columns in judged:
            count(tally, columns)
            held = {name: [*column, *columns[name]] for name, column in at.held.items()}
            at = _At(number=at.number, place=place.copy(), held=held)
            if len(held["line"]) >= PART:
                write()
    except BaseException:
        write()
        raise
    write()
    parts.finish(out, parts.state_of(at.place, at.number))


def _judged(
    rows: Iterator[Recorded],
    judge: Judge,
    extract: Callable[[str], str | None] | None,
    tally: Tally,
    *,
    probes: bool,
) -> Iterator[dict[str, list[Any]]]:
    """Yield what the completions of a chunk after the other are worth, as columns of `parts.COLUMNS`."""
    while chunk := list(islice(rows, CHUNK)):
        asked = [Prompt(id=str(row.line), text=row.question, answer=row.gold, meta=row.meta) for row in chunk]
        prompts = [prompt for prompt, row in zip(asked, chunk, strict=True) for _ in row.completions]
        verdicts = judge(prompts, [text for row in chunk for text in row.completions])
        judgements = iter(_fairly(prompts, verdicts, judge) if probes else verdicts)
        samples: dict[str, int] = {}
        found: dict[str, list[Any]] = {name: [] for name in parts.COLUMNS}
        for row in chunk:
            name, crc = utf8(row.id), zlib.crc32(row.gold.encode("utf-8", "backslashreplace"))
            known = tally.problems.get(name)
            start = samples.get(name, len(tally.verdicts[known]) if known is not None else 0)
            samples[name] = start + len(row.completions)
            said = row.verdicts or (None,) * len(row.completions)
            own = islice(judgements, len(row.completions))
            for number, (text, judgement, right) in enumerate(zip(row.completions, own, said, strict=True)):
                told = judgement.verdict is Verdict.UNJUDGED or right not in (None, judgement.verdict is Verdict.RIGHT)
                answer = extract(text) if extract is not None else None
                values = (
                    row.line, name, start + number, str(judgement.verdict),
                    utf8(answer[:EXTRACTED]) if answer is not None else None,
                    int(answer is not None) if extract is not None else None, None if right is None else int(right),
                    crc, utf8(row.gold[:EXTRACTED]) if told else None, utf8(judgement.detail) if told else None,
                )  # fmt: skip
                for column, value in zip(found.values(), values, strict=True):
                    column.append(value)
        yield found


def _fairly(prompts: Sequence[Prompt], judgements: list[Judgement], judge: Judge) -> list[Judgement]:
    """Return judgements in which a problem whose reference cannot be read has no wrong answers: none was judged.

    A completion without an answer is wrong whatever the reference is; were it counted, such a problem would count as
    one that the model failed. Only references are asked after whose problem has nothing but such completions, or one
    that was not judged.
    """
    told: dict[str, list[Judgement]] = {}
    for prompt, judgement in zip(prompts, judgements, strict=True):
        told.setdefault(prompt.id, []).append(judgement)
    doubtful = {
        name
        for name, own in told.items()
        if any(one.verdict is Verdict.UNJUDGED for one in own) or all(one.detail in EMPTY for one in own)
    }
    first = {prompt.id: prompt for prompt in prompts if prompt.id in doubtful}
    bad = dict(unreadable(list(first.values()), judge)) if first else {}
    return [
        replace(judgement, verdict=Verdict.UNJUDGED, reward=0.0, detail=bad[prompt.id])
        if prompt.id in bad and judgement.verdict is Verdict.WRONG
        else judgement
        for prompt, judgement in zip(prompts, judgements, strict=True)
    ]
