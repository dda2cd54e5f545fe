"""Answers of an evaluation on disk: shards that appear whole, so that an interrupted evaluation can go on.

`OUT/<benchmark>/answers/part-00000.parquet` holds every answer in the columns of a trace. When all are there,
`OUT/<benchmark>.parquet` says of each what it was worth, without its text: what `compare` reads.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forkpoint.errors import InputError
from forkpoint.evaluate.graded import Graded, equality_classes, graded
from forkpoint.evaluate.spec import EvalSpec
from forkpoint.train.files import INTACT, atomic_file, disk_errors
from forkpoint.train.tables import write_table

COLUMNS: Mapping[str, str] = {
    "prompt_id": "string", "sample": "int32", "prompt": "string", "answer": "string", "completion": "string",
    "ids": "list<int32>", "tokens": "list<string>", "logp": "list<float>", "entropy": "list<float>",
    "entropy_kind": "string", "verdict": "string", "reward": "float", "finish": "string", "length": "int32",
    "extracted": "string", "seed": "int64",
}  # fmt: skip
"""Columns of a shard, those of a trace and three more; every value but the first two may be null."""
GRADED: Mapping[str, str] = {
    "problem_id": "string", "sample": "int32", "verdict": "string", "extracted": "string", "has_answer": "int32",
    "finish": "string", "length": "int32", "entropy_sum": "float", "entropy_kind": "string",
}  # fmt: skip
"""Columns of the table without texts."""
EXTRACTED = 1000
"""Characters of an extracted answer that are kept."""
_VALUE = {"right": 1.0, "wrong": 0.0}


def shards(folder: Path) -> list[Path]:
    """Return the shards of an evaluation in the order in which they were written."""
    return sorted((folder / "answers").glob("part-*.parquet"))


def next_shard(folder: Path) -> int:
    """Return the number of the shard to be written next."""
    written = shards(folder)
    return int(written[-1].stem.partition("-")[2]) + 1 if written else 0


def write_shard(folder: Path, number: int, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write answers as shard `number`; written again it replaces itself.

    Raises:
        TrainingError: the disk is full; earlier shards are intact.
    """
    columns = {name: [utf8(row.get(name)) for row in rows] for name in COLUMNS}
    return write_table(folder / "answers" / f"part-{number:05d}.parquet", columns, COLUMNS)


def read_shards(folder: Path, columns: Sequence[str]) -> Iterator[Any]:
    """Yield the named columns of one shard after the other, as arrow tables.

    Raises:
        InputError: a shard is damaged; it is named.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for shard in shards(folder):
        try:
            yield pq.read_table(shard, columns=list(columns), partitioning=None)
        except (pa.ArrowException, OSError, KeyError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{shard} is damaged ({why}): delete it, and its answers are drawn again") from error


def finished(folder: Path) -> set[tuple[str, int]]:
    """Return which answers are there: problem id and sample."""
    found: set[tuple[str, int]] = set()
    for table in read_shards(folder, ("prompt_id", "sample")):
        found.update(zip(table["prompt_id"].to_pylist(), table["sample"].to_pylist(), strict=True))
    return found


@contextlib.contextmanager
def graded_writer(
    out: Path, *, metadata: Mapping[str, str] | None = None
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that appends columns of `GRADED` to a table, which appears whole at the end; missing are null.

    Args:
        out: the file.
        metadata: what the file says of itself.

    Raises:
        TrainingError: the disk is full.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"string": pa.string(), "int32": pa.int32(), "float": pa.float32()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in GRADED.items()], metadata=dict(metadata or {}) or None)
    with (
        disk_errors(out.name, out.parent, INTACT),
        atomic_file(out) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):

        def write(columns: Mapping[str, Any]) -> None:
            size = len(columns["problem_id"])
            whole = {name: columns.get(name, pa.nulls(size, schema.field(name).type)) for name in GRADED}
            writer.write_table(pa.table(whole).cast(schema))

        yield write


def write_graded(folder: Path, out: Path, *, extracts: bool = True) -> Path:
    """Write what every answer was worth as one table, a shard at a time; of a repeated answer the first counts.

    Args:
        folder: the evaluation.
        out: the file.
        extracts: whether the verifier takes final answers out of texts; without that none can be missing.

    Raises:
        TrainingError: the disk is full.
    """
    import pyarrow as pa

    read = ("prompt_id", "sample", "verdict", "extracted", "finish", "length", "entropy", "entropy_kind")
    seen: set[tuple[str, int]] = set()
    with graded_writer(out) as write:
        for shard in read_shards(folder, read):
            table = _unseen(shard, seen)
            columns = {name: table[name] for name in read if name in GRADED}
            columns |= {"problem_id": table["prompt_id"], "entropy_sum": _sums(table["entropy"])}
            write(columns | ({"has_answer": table["extracted"].is_valid().cast(pa.int32())} if extracts else {}))
    return out


def _unseen(table: Any, seen: set[tuple[str, int]]) -> Any:
    """Return the rows whose problem and sample were not seen before, and take note of them."""
    import pyarrow as pa

    keep = []
    for pair in zip(table["prompt_id"].to_pylist(), table["sample"].to_pylist(), strict=True):
        keep.append(pair not in seen)
        seen.add(pair)
    return table if all(keep) else table.filter(pa.array(keep, pa.bool_()))


def read_graded(
    table: Path, *, name: str, equal: Callable[[str, str], bool] | None = None, spec: EvalSpec | None = None,
    notes: Sequence[str] = (),
) -> Graded:  # fmt: skip
    """Return the table of `write_graded` as arrays.

    Args:
        table: the file.
        name: what a table calls it.
        equal: equality of two extracted answers, for votes; None leaves votes out.
        spec: conditions.
        notes: kept.
    """
    import pyarrow.parquet as pq

    rows = pq.read_table(table, partitioning=None)
    problems, extracted = rows["problem_id"].to_pylist(), rows["extracted"].to_pylist()
    kinds = set(rows["entropy_kind"].to_pylist())
    voted = equal is not None and any(one is not None for one in extracted)
    return graded(
        name,
        problems,
        [_VALUE.get(verdict, np.nan) for verdict in rows["verdict"].to_pylist()],
        sample=rows["sample"].to_pylist(),
        length=_floats(rows["length"]) if rows["length"].null_count == 0 else None,
        truncated=[float(finish == "length") for finish in rows["finish"].to_pylist()],
        format=_floats(rows["has_answer"]) if rows["has_answer"].null_count == 0 else None,
        answer_class=equality_classes(problems, extracted, equal) if voted and equal is not None else None,
        entropy=_floats(rows["entropy_sum"]) if rows["entropy_sum"].null_count == 0 else None,
        entropy_bound="lower-bound" in kinds,
        spec=spec,
        notes=notes,
    )


def move_aside(path: Path) -> None:
    """Rename a folder or a file, if there is one, to its name with the next free number."""
    if not path.exists():
        return
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    path.rename(aside)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file that appears whole or not at all."""
    with disk_errors(path.name, path.parent, INTACT), atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def utf8(value: Any) -> Any:
    """Return text that can be written: lone surrogates, which JSON can hold, become visible escapes."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    return [utf8(one) for one in value] if isinstance(value, list) and value and isinstance(value[0], str) else value


def _sums(lists: Any) -> Any:
    """Return the sum of every list, null where there is none."""
    import pyarrow as pa

    sums = [None if values is None else float(np.sum(values)) for values in lists.to_pylist()]
    return pa.array(sums, pa.float32())


def _floats(column: Any) -> Any:
    return column.to_numpy().astype(np.float64)
