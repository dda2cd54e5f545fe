"""Between arrow and trace batches: columns of lists to flat arrays with offsets, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forkpoint.analyze.traces.columns import (
    alternatives_of_tokens,
    as_list,
    codes_of_tokens,
    lengths,
    numbers_of_rows,
    numbers_of_tokens,
    text_of_rows,
)
from forkpoint.analyze.traces.trace import (
    ENTROPY_KINDS,
    Alternatives,
    Note,
    TraceBatch,
    TraceEntropyKind,
    checked,
    lower_bound,
)
from forkpoint.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS: Mapping[str, str] = {
    "prompt_id": "string", "sample": "int32", "step": "int64", "prompt": "string", "answer": "string",
    "completion": "string", "tokens": "list<string>", "ids": "list<int32>", "logp": "list<float>",
    "entropy": "list<float>", "entropy_kind": "string", "rank": "list<int32>", "top_tokens": "list<list<string>>",
    "top_ids": "list<list<int32>>", "top_logp": "list<list<float>>", "advantage": "list<float>",
    "credit": "list<float>", "kept": "list<bool>", "phase": "list<int8>", "reward": "double", "verdict": "string",
    "finish": "string",
}  # fmt: skip
"""Columns of a trace file, one row a response; every value may be null. `docs/traces.md` says what each means."""
_LISTS: Mapping[str, tuple[Any, Any]] = {
    "ids": (np.int32, -1), "logp": (np.float32, math.nan), "entropy": (np.float32, math.nan), "rank": (np.int32, 0),
    "advantage": (np.float32, math.nan), "credit": (np.float32, math.nan), "kept": (np.bool_, False),
    "phase": (np.int8, 0),
}  # fmt: skip
_OPTIONAL = ("advantage", "credit", "kept", "phase")
_SCALARS: Mapping[str, tuple[Any, Any]] = {
    "sample": (np.int32, -1), "step": (np.int64, -1), "reward": (np.float64, math.nan),
}  # fmt: skip
_TEXTS = ("prompt_id", "prompt", "answer", "completion", "verdict", "finish")
_TOP = ("top_tokens", "top_ids", "top_logp")


def arrow_type(name: str) -> pa.DataType:
    """Return an arrow type by the name it has in `COLUMNS`."""
    import pyarrow as pa

    if name.startswith("list<"):
        return pa.list_(arrow_type(name[5:-1]))
    scalars = {"float": pa.float32(), "double": pa.float64(), "string": pa.string(), "bool": pa.bool_()}
    return scalars.get(name) or getattr(pa, name)()


def batch_of_arrow(
    part: pa.RecordBatch, chosen: Mapping[str, str], path: Path, row: int, unsaid: TraceEntropyKind
) -> TraceBatch:
    """Return one record batch as a trace batch; rows whose lists differ in length are left out and noted.

    Args:
        part: some rows.
        chosen: trace column -> column of `part`.
        path: the file, for messages.
        row: number of the first row in the file, from 1.
        unsaid: kind of entropies whose row does not say.

    Raises:
        InputError: a column does not hold what it should; file and column are named.
    """
    import pyarrow as pa

    columns = {name: part.column(column) for name, column in chosen.items()}
    where = {name: f"column {column!r} of {path}" for name, column in chosen.items()}
    lists = {n: as_list(columns[n], where[n], n in _TOP) for n in ("tokens", *_LISTS, *_TOP) if n in columns}
    own = {name: lengths(column) for name, column in lists.items()}
    length_R = np.max(list(own.values()), axis=0, initial=0) if own else np.zeros(part.num_rows, np.int64)
    notes, good_R = [], np.ones(part.num_rows, bool)
    for name, own_R in own.items():
        bad_R = (own_R != length_R) & (own_R >= 0) & good_R
        if bad_R.any():
            what = f"field {chosen[name]!r} has fewer entries than another field has tokens"
            notes.append(Note(what=what, count=int(bad_R.sum()), first=f"{path.name} row {row + int(bad_R.argmax())}"))
            good_R &= ~bad_R
    if not good_R.all():
        keep = pa.array(np.flatnonzero(good_R))
        columns = {name: column.take(keep) for name, column in columns.items()}
        lists = {name: column.take(keep) for name, column in lists.items()}
        length_R = length_R[good_R]
    offsets_R = np.concatenate([[0], np.cumsum(length_R)]).astype(np.int64)
    rows, total = len(length_R), int(offsets_R[-1])
    flat: dict[str, Any] = {
        name: numbers_of_tokens(lists[name], length_R, kind, fill, where[name])
        if name in lists
        else np.full(total, fill, kind)
        for name, (kind, fill) in _LISTS.items()
        if name in lists or name not in _OPTIONAL
    }
    codes: dict[str, int] = {}
    text_N = (
        codes_of_tokens(lists["tokens"], length_R, codes, where["tokens"])
        if "tokens" in lists
        else np.full(total, -1, np.int32)
    )
    top = alternatives_of_tokens(lists, length_R, codes, where) if "top_logp" in lists else None
    kinds: tuple[TraceEntropyKind, ...]
    if "entropy" in lists:
        kinds = _kinds(columns.get("entropy_kind"), rows, unsaid, str(path))
    else:
        known = bool(total) and ("logp" in lists or top is not None)
        kinds = (("lower-bound" if known else "none"),) * rows
        if known:
            flat["entropy"] = _bounds(flat["logp"], flat["ids"], top)
    optional: Any = {f"{name}_N": flat.get(name) for name in _OPTIONAL}
    texts: Any = {name: text_of_rows(columns.get(name), rows) for name in _TEXTS}
    scalars: Any = {
        f"{name}_R": numbers_of_rows(columns.get(name), rows, kind, fill, where.get(name, ""))
        for name, (kind, fill) in _SCALARS.items()
    }
    return checked(
        TraceBatch(
            file=path.name, unit="row", place_R=row + np.flatnonzero(good_R), offsets_R=offsets_R, texts=tuple(codes),
            text_N=text_N, id_N=flat["ids"], logp_N=flat["logp"], entropy_N=flat["entropy"], entropy_kind=kinds,
            rank_N=flat["rank"], top=top, notes=tuple(notes), **optional, **texts,
            **scalars,
        )
    )  # fmt: skip


def record_batch(batch: TraceBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return a trace batch as arrow columns of `COLUMNS`; what is not known is null."""
    import pyarrow as pa

    values: dict[str, Any] = {name: list(getattr(batch, name)) for name in (*_TEXTS, "entropy_kind")}
    for name, (_, fill) in _SCALARS.items():
        array = getattr(batch, f"{name}_R")
        values[name] = pa.array(array, mask=np.isnan(array) if fill != fill else array == fill)
    offsets = pa.array(batch.offsets_R.astype(np.int32))
    flat: dict[str, Any] = {f"{name}": getattr(batch, f"{name}_N") for name in _OPTIONAL}
    flat |= {"ids": batch.id_N, "logp": batch.logp_N, "entropy": batch.entropy_N, "rank": batch.rank_N}
    flat["tokens"] = _spelled(batch.texts, batch.text_N)
    if batch.top is not None:
        inner = pa.array(batch.top.offsets_N.astype(np.int32))
        top = {"top_ids": batch.top.id_M, "top_logp": batch.top.logp_M}
        top["top_tokens"] = _spelled(batch.texts, batch.top.text_M)
        flat |= {name: pa.ListArray.from_arrays(inner, pa.array(array)) for name, array in top.items()}
    for name, array in flat.items():
        if array is not None:
            values[name] = pa.ListArray.from_arrays(offsets, pa.array(array))
    nulls = pa.nulls(batch.responses)
    return pa.record_batch([_cast(values.get(field.name, nulls), field.type) for field in schema], schema=schema)


def _cast(values: Any, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    return pa.array(values, kind) if isinstance(values, list) else values.cast(kind)


def _spelled(texts: tuple[str, ...], codes: NDArray[np.int32]) -> pa.Array:
    import pyarrow as pa

    indices = pa.array(codes, mask=codes < 0)
    return pa.array(list(texts), pa.string()).take(indices)


def _bounds(logp_N: NDArray[np.float32], id_N: NDArray[np.int32], top: Alternatives | None) -> NDArray[np.float32]:
    none = np.zeros(0, np.int32)
    top = top or Alternatives(
        offsets_N=np.zeros(len(logp_N) + 1, np.int64), id_M=none, text_M=none, logp_M=none.astype(np.float32)
    )
    token_M = np.repeat(np.arange(len(logp_N)), np.diff(top.offsets_N))
    # A token at least as likely as one of the list belongs to the list: it must not be counted twice.
    same_M = ((top.id_M >= 0) & (top.id_M == id_N[token_M])) | (logp_N[token_M] >= top.logp_M)
    return lower_bound(logp_N, top, np.bincount(token_M, same_M, minlength=len(logp_N)) > 0)


def _kinds(column: pa.Array | None, rows: int, unsaid: TraceEntropyKind, path: str) -> tuple[TraceEntropyKind, ...]:
    if column is None:
        return (unsaid,) * rows
    said = text_of_rows(column, rows)
    unknown = next((kind for kind in said if kind is not None and kind not in ENTROPY_KINDS), None)
    if unknown is not None:
        raise InputError(f"{path} has an entropy_kind {unknown!r}, which is none of {', '.join(ENTROPY_KINDS)}")
    return tuple(kind or unsaid for kind in said)  # type: ignore[misc]
