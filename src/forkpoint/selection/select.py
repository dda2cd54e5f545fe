"""Select the rows of a data set: rows stream through, and a manifest says why each was kept or dropped."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from forkpoint.analyze.traces.trace import Traces
from forkpoint.errors import InputError, did_you_mean
from forkpoint.evaluate.graded import Graded
from forkpoint.selection.choose import Choice, Criteria, choose
from forkpoint.selection.problems import AreaOf, Measured, measure_graded, measure_problems
from forkpoint.tasks.rows import Row, open_rows
from forkpoint.train.files import INTACT, atomic_file, disk_errors, output_path

BATCH = 1024
"""Rows of parquet held at once."""


def select(
    data: str | Path,
    out: str | Path,
    answers: Traces | Graded,
    criteria: Criteria,
    *,
    id: str | None = None,
    split: str | None = None,
    config: str | None = None,
    area: AreaOf | None = None,
    areas: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Write the rows of a data set that fulfil the criteria, as they are, and the manifest beside them.

    Rows are joined with answers by problem id. Nothing of a row but its id is held.

    Args:
        data: JSONL, JSON, CSV or parquet file, folder of splits, or hub data set.
        out: `.jsonl`, or `.parquet` where the data are one parquet file.
        answers: graded answers or a trace (`forkpoint.selection.problems.open_answers`).
        criteria: which to keep.
        id: field that names a problem; file name and row number where not given, as for `read_prompts`.
        split: of a folder or hub data set.
        config: of a hub data set.
        area: computes the entropy area of an answer.
        areas: entropy areas by problem id, such as those of an earlier manifest (`read_areas`).

    Returns:
        The summary, which is also written: `OUT.summary.json`; `OUT.manifest.jsonl` has a line for every row.

    Raises:
        InputError: data that cannot be read, ids that are missing or repeat, no problem that was answered, or outputs
            that would replace data or answers.
    """
    target = Path(out)
    name, stem, rows = open_rows(data, split, config)
    parquet = target.suffix == ".parquet"
    if target.suffix not in (".jsonl", ".parquet") or (parquet and not name.endswith(".parquet")):
        raise InputError(f"cannot write {target}: rows of {name} are written as .jsonl, parquet also as .parquet")
    said = answers.name if isinstance(answers, Graded) else answers.about.name
    check_outputs(target, [name, said])
    ids = _ids(rows, name, stem, id)
    if isinstance(answers, Graded):
        if area is not None:
            raise InputError(f"entropy areas are computed of texts, and {said} holds none: give a trace of the answers")
        found = measure_graded(answers, known=areas)
    else:
        found = measure_problems(answers, area=area, known=areas)
    if not any(one in found for one in ids):
        example = next(iter(found), None)
        there = f"there it is {example!r}" if example is not None else "no answer there names its problem"
        raise InputError(
            f"no problem of {name} occurs in {said}: the first is {ids[0]!r} here, {there}; "
            "name the field of the id with --id"
        )
    choices = choose(ids, found, criteria)
    with disk_errors(target.name, target.parent, INTACT):
        kept = (choice.kept for choice in choices)
        if parquet:
            _filter_parquet(Path(name), target, kept)
        else:
            _write_lines(target, _kept(open_rows(data, split, config)[2], kept))
        _write_lines(_beside(target, ".manifest.jsonl"), _manifest(ids, found, choices))
        summary = {
            "data": name, "answers": said, "out": str(target),
            "criteria": {k: v for k, v in dataclasses.asdict(criteria).items() if v not in (None, False)},
            "rows": len(ids), "kept": sum(choice.kept for choice in choices),
            "dropped": dict(Counter(choice.reason for choice in choices if not choice.kept)),
            "answered_but_not_in_data": len(found.keys() - set(ids)),
        }  # fmt: skip
        with atomic_file(_beside(target, ".summary.json")) as temporary:
            temporary.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return summary


def check_outputs(out: Path, inputs: Iterable[str | Path]) -> None:
    """Refuse outputs that would replace something that is read.

    Args:
        out: the rows that are kept; manifest and summary lie beside it.
        inputs: what is read.

    Raises:
        InputError: one of the three files is an input, or no regular file.
    """
    read = tuple(inputs)
    for path in (out, _beside(out, ".manifest.jsonl"), _beside(out, ".summary.json")):
        output_path(path, read)


def read_areas(manifest: str | Path) -> dict[str, float]:
    """Return the entropy areas of an earlier manifest, by problem id; computing them again takes a model.

    Raises:
        InputError: it is no manifest.
    """
    if not Path(manifest).is_file():
        raise InputError(f"there is no manifest {manifest}: give the .manifest.jsonl that a selection wrote")
    found = {}
    for where, row in open_rows(manifest, None, None)[2]:
        if not isinstance(row, dict) or not isinstance(row.get("id"), str) or "entropy_area" not in row:
            raise InputError(f"{manifest} {where} has no `id` and `entropy_area`: give the manifest of a selection")
        if row["entropy_area"] is not None:
            found[row["id"]] = float(row["entropy_area"])
    return found


def _ids(rows: Iterable[Row], name: str, stem: str, field: str | None) -> list[str]:
    """Return the id of every row."""
    ids: dict[str, None] = {}
    for number, (where, row) in enumerate(rows, start=1):
        if field is None:
            ids[f"{stem}/{number}"] = None
            continue
        value = row.get(field) if isinstance(row, dict) else None
        if isinstance(value, bool) or not isinstance(value, str | int):
            hint = did_you_mean(field, row) if isinstance(row, dict) and field not in row else "it must be text"
            raise InputError(f"{name} {where} has no id in field {field!r}; {hint}")
        if str(value) in ids:
            raise InputError(f"{name} {where}: the id {str(value)!r} is taken by an earlier row")
        ids[str(value)] = None
    if not ids:
        raise InputError(f"{name} is empty, so there is nothing to select")
    return list(ids)


def _kept(rows: Iterable[Row], kept: Iterator[bool]) -> Iterator[Any]:
    for (where, row), keep in zip(rows, kept, strict=True):
        if keep:
            try:
                json.dumps(row)
            except (TypeError, ValueError) as error:
                raise InputError(f"{where} holds what JSON cannot ({error}): write .parquet instead") from error
            yield row


def _manifest(ids: list[str], found: Mapping[str, Measured], choices: list[Choice]) -> Iterator[dict[str, Any]]:
    for row, (name, choice) in enumerate(zip(ids, choices, strict=True), start=1):
        one = found.get(name, Measured())
        yield {
            "row": row, "id": name, "kept": choice.kept, "reason": choice.reason, "why": choice.why,
            "answers": one.answers, "judged": one.judged, "right": one.right, "pass_rate": _plain(one.pass_rate),
            "length": _plain(one.length), "entropy_area": _plain(one.area),
        }  # fmt: skip


def _write_lines(path: Path, rows: Iterable[Any]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")


def _filter_parquet(source: Path, target: Path, kept: Iterator[bool]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with (
        pq.ParquetFile(source) as file,
        atomic_file(target) as temporary,
        pq.ParquetWriter(temporary, file.schema_arrow, compression="zstd") as writer,
    ):
        for batch in file.iter_batches(batch_size=BATCH):
            mask = pa.array([next(kept) for _ in range(batch.num_rows)], pa.bool_())
            writer.write_batch(batch.filter(mask))


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(target.stem + ending)


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
