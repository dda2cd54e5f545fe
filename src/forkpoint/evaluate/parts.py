"""What is graded of a file of recorded completions, on disk as it is found, so that an interrupted grading goes on.

`OUT.parts/part-00000.parquet` holds some judged completions without their texts, and `OUT.parts/state.json` how many
such files count, how far the file of completions was read, and under which conditions. The folder goes when the
finished table appears.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forkpoint.errors import InputError
from forkpoint.evaluate.recorded import Place, place_at
from forkpoint.evaluate.store import GRADED, graded_writer, move_aside, write_json
from forkpoint.train.tables import write_table

COLUMNS: Mapping[str, str] = {
    "line": "int64", "problem_id": "string", "sample": "int32", "verdict": "string", "extracted": "string",
    "has_answer": "int32", "recorded": "int32", "gold_crc": "int64", "gold": "string", "detail": "string",
}  # fmt: skip
"""Columns of a part. `gold` and `detail` stand only where a reader of the report will want them."""
Columns = Mapping[str, Sequence[Any]]
_GRADED_FROM = "forkpoint.completions"
"""Metadata of a finished table: the `State` in which the file of completions was read to its end."""


@dataclass(frozen=True, kw_only=True)
class State:
    """How far a grading is."""

    line: int = 0
    """Lines of the file that are graded."""
    bytes: int = 0
    sha256: str = ""
    """Of these bytes."""
    parts: int = 0
    """Files that count."""


def folder_of(out: Path) -> Path:
    """Return where the parts of a table are kept until it is finished."""
    return out.with_suffix(".parts")


def state_of(place: Place, count: int) -> State:
    """Return how far a grading is that read a file up to a place and wrote so many parts."""
    return State(line=place.line, bytes=place.bytes, sha256=place.hash.hexdigest(), parts=count)


def begin(path: Path, out: Path, conditions: Mapping[str, str | None], *, fresh: bool = False) -> State:
    """Return how far the grading into a table is, after refusing one under other conditions or of other completions.

    Args:
        path: the file of completions.
        out: the finished table's path.
        conditions: everything that moves a verdict, by name.
        fresh: move what is there aside and begin anew.

    Raises:
        InputError: other conditions, which are named, something that is no grading, or a finished table of another
            file.
    """
    folder = folder_of(out)
    if fresh:
        move_aside(folder)
        move_aside(out)
    _refuse_other_table(path, out)
    if not (folder / "state.json").is_file():
        # What a call leaves that was killed before its first part counted is overwritten.
        own = (".tmp-", "part-")
        if folder.is_dir() and not all(file.name.startswith(own) for file in folder.iterdir()):
            raise InputError(f"{folder} holds something that is no half of a grading: give another --out")
        return State()
    try:
        said = json.loads((folder / "state.json").read_bytes())
        before, state = said["conditions"], State(**said["state"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}/state.json is damaged: give --fresh to grade anew") from error
    other = [f"{name}: {before.get(name)} against {value}" for name, value in conditions.items()
             if before.get(name) != value]  # fmt: skip
    if other:
        raise InputError(
            f"{folder} holds half of a grading under other conditions ({'; '.join(other)}): give another --out, or "
            "--fresh to move it aside"
        )
    return state


def _refuse_other_table(path: Path, out: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not out.exists() or not path.exists():  # Whoever reads the completions says that they are not there.
        return
    try:
        said = State(**json.loads((pq.read_schema(out).metadata or {})[_GRADED_FROM.encode()]))
        place_at(path, said.line, said.bytes, said.sha256)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, InputError):
        raise InputError(
            f"{out} exists and is not the table of these completions of {path}: give another --out, or --fresh to move "
            "it aside"
        ) from None


def write_part(out: Path, number: int, columns: Columns) -> None:
    """Write judged completions as part `number`.

    Raises:
        TrainingError: the disk is full; earlier parts are intact.
    """
    write_table(folder_of(out) / f"part-{number:05d}.parquet", columns, COLUMNS)


def write_state(out: Path, conditions: Mapping[str, str | None], state: State) -> None:
    """Say that everything up to a place is written."""
    write_json(folder_of(out) / "state.json", {"conditions": dict(conditions), "state": asdict(state)})


def read_parts(out: Path, count: int) -> Iterator[dict[str, list[Any]]]:
    """Yield the columns of the first `count` parts.

    Raises:
        InputError: one is damaged; it is named.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number in range(count):
        file = folder_of(out) / f"part-{number:05d}.parquet"
        try:
            yield pq.read_table(file, columns=list(COLUMNS), partitioning=None).to_pydict()
        except (pa.ArrowException, OSError, KeyError) as error:
            raise InputError(f"{file} is damaged: give --fresh to grade anew") from error


def finish(out: Path, state: State) -> None:
    """Join the parts to the table and remove them.

    Raises:
        TrainingError: the disk is full; the parts are intact.
    """
    with graded_writer(out, metadata={_GRADED_FROM: json.dumps(asdict(state))}) as write:
        for columns in read_parts(out, state.parts):
            write({name: columns[name] for name in columns if name in GRADED})
    shutil.rmtree(folder_of(out))
