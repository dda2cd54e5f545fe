"""The trace format on disk: parquet with a schema version, written and read a batch at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from forkpoint.analyze.traces.arrow import COLUMNS, arrow_type, batch_of_arrow, record_batch
from forkpoint.analyze.traces.trace import SCHEMA, TraceBatch, TraceEntropyKind, TraceInfo
from forkpoint.errors import InputError

KEY = b"forkpoint.trace"
"""Where a file's metadata keep `schema` and what `TraceInfo` says, as JSON."""
_MOST_ROWS = 1 << 20  # of a batch, whatever a damaged file says


def write_traces(path: Path, batches: Iterable[TraceBatch], about: TraceInfo) -> int:
    """Write a trace file, which appears whole or not at all, and return the number of responses.

    Args:
        path: where to.
        batches: each becomes one row group, so their size bounds the memory of whoever reads the file.
        about: kept in the metadata.

    Raises:
        TrainingError: the disk is full, or the folder cannot be written to.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from forkpoint.train.files import INTACT, atomic_file, disk_errors

    kept = {"kind": about.kind, "name": about.name, "model": about.model, "temperature": about.temperature}
    said = kept | {"lacks": list(about.lacks), "notes": list(about.notes), "schema": SCHEMA}
    schema = pa.schema([(name, arrow_type(kind)) for name, kind in COLUMNS.items()], metadata={KEY: json.dumps(said)})
    responses = 0
    with (
        disk_errors(path.name, path.parent, INTACT),
        atomic_file(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for batch in batches:
            writer.write_batch(record_batch(batch, schema), row_group_size=max(1, batch.responses))
            responses += batch.responses
    return responses


def file_info(path: Path) -> TraceInfo | None:
    """Return what a trace file says of itself, or None if the parquet file is no trace of ours.

    Raises:
        InputError: it cannot be read, or its schema is newer than this version knows.
    """
    with open_parquet(path) as file:
        raw = (file.schema_arrow.metadata or {}).get(KEY)
    if raw is None:
        return None
    try:
        said = json.loads(raw)
        version = said["schema"]
        if version != SCHEMA:
            raise InputError(f"{path} has trace schema {version} and this version reads {SCHEMA}: update forkpoint")
        return TraceInfo(
            kind="trace", name=str(path), lacks=tuple(map(str, said["lacks"])), notes=tuple(map(str, said["notes"])),
            model=said["model"] and str(said["model"]), temperature=said["temperature"] and float(said["temperature"]),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"the metadata {KEY.decode()!r} of {path} are damaged: write the trace again") from error


def read_batches(
    path: Path,
    *,
    names: Mapping[str, str] | None = None,
    columns: Sequence[str] | None = None,
    tokens: int = 1 << 20,
    entropy_kind: TraceEntropyKind = "exact",
) -> Iterator[TraceBatch]:
    """Yield a parquet file of responses with lists over their tokens, a batch at a time.

    Args:
        path: a trace, a rollout file of a run, or a plain file.
        names: trace column -> column of the file, where they differ.
        columns: trace columns to read; what is not read is not known. All if None.
        tokens: about how many tokens a batch has. A response is never cut.
        entropy_kind: of entropies whose row does not say.

    Raises:
        InputError: the file cannot be read, or a column does not hold what it should; it is named.
    """
    import pyarrow as pa

    wanted = {name: name for name in COLUMNS} | dict(names or {})
    with open_parquet(path, dictionaries=(wanted["tokens"], wanted["top_tokens"])) as file:
        here = set(file.schema_arrow.names)
        chosen = {n: c for n, c in wanted.items() if c in here and (columns is None or n in (*columns, "entropy_kind"))}
        leaf = next((chosen[name] for name in ("entropy", "logp", "ids", "tokens") if name in chosen), None)
        row = 1
        for group in range(file.num_row_groups):
            try:
                rows = _rows_for(file, group, leaf, tokens)
                parts = file.iter_batches(batch_size=rows, row_groups=[group], columns=list(chosen.values()))
                for part in parts:
                    if part.num_rows:
                        yield batch_of_arrow(part, chosen, path, row, entropy_kind)
                    row += part.num_rows
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                raise InputError(f"{path} is damaged near row {row} ({_first_line(error)}): copy it again") from error


def open_parquet(path: Path, dictionaries: Sequence[str] = ()) -> Any:
    """Return the open parquet file; texts of the named columns come as codes into a dictionary.

    Raises:
        InputError: it is not one, or is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        leaves = [file.schema.column(i).path for i in range(len(file.schema))]
        coded = [leaf for leaf in leaves if leaf.split(".")[0] in dictionaries]
        if not coded:
            return file
        file.close()
        return pq.ParquetFile(path, read_dictionary=coded)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as parquet ({_first_line(error)}): copy it again") from error


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _rows_for(file: Any, group: int, leaf: str | None, tokens: int) -> int:
    """Return how many rows of a row group hold about `tokens` tokens."""
    names = [file.schema.column(i).path for i in range(len(file.schema))]
    place = next((i for i, name in enumerate(names) if leaf is not None and name.split(".")[0] == leaf), None)
    if place is None:
        return 1024
    # Arrow ends the process where the metadata of a column are damaged and asked for; reading it raises instead.
    next(file.iter_batches(batch_size=1, row_groups=[group], columns=[leaf]), None)
    metadata = file.metadata.row_group(group)
    values = metadata.column(place).num_values
    return min(max(1, int(tokens * metadata.num_rows / values)), _MOST_ROWS) if values > 0 else 1024
