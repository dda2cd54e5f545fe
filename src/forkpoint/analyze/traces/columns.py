"""Arrow columns as flat arrays: lists over tokens, alternatives of every token, texts and numbers of a response.

Columns come from strangers: each is checked, and one that does not hold what it should is named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forkpoint.analyze.traces.records import as_text
from forkpoint.analyze.traces.trace import Alternatives
from forkpoint.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa


def as_list(column: pa.Array, where: str, nested: bool) -> pa.Array:
    """Return a column as lists, whatever kind of list it is; all null where its type is null."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_null(kind):
        return pa.array([None] * len(column), pa.list_(pa.null()))
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return column.cast(pa.large_list(kind.value_type))
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise InputError(f"{where} holds {kind}, not a list {'of lists ' * nested}for every response")
    return column


def lengths(column: pa.Array) -> NDArray[np.int64]:
    """Return the length of every list, -1 for null."""
    import pyarrow.compute as pc

    return pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _spread(column: pa.Array, length_R: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    """Return which of the N tokens the lists of a column speak of; None where there is one entry for each."""
    own_R = lengths(column)
    return None if np.array_equal(own_R, length_R) else np.repeat(own_R >= 0, length_R)


def numbers_of_tokens(column: pa.Array, length_R: NDArray[np.int64], kind: Any, fill: Any, where: str) -> NDArray[Any]:
    """Return the numbers of lists flat, `fill` for null and for a response without a list."""
    there_N = _spread(column, length_R)
    values = _plain(column.flatten(), kind, fill, where)
    if there_N is None:
        return values
    out = np.full(len(there_N), fill, kind)
    out[there_N] = values
    return out


def _plain(values: pa.Array, kind: Any, fill: Any, where: str) -> NDArray[Any]:
    """Return numbers as a numpy array, `fill` for null."""
    import pyarrow as pa

    types = pa.types
    is_number = types.is_integer(values.type) or types.is_floating(values.type) or types.is_boolean(values.type)
    if not (is_number or types.is_null(values.type) or types.is_decimal(values.type)):
        raise InputError(f"{where} holds {values.type} where numbers belong")
    try:
        target = pa.from_numpy_dtype(np.dtype(kind))
        # float64 to float32 may round; an id that does not fit int32 is no id.
        values = values.cast(target, safe=np.dtype(kind).kind in "iu")
    except pa.ArrowInvalid as error:
        raise InputError(f"{where} holds a number that is no {np.dtype(kind).name}: {error}") from error
    if values.null_count:
        values = values.fill_null(pa.scalar(fill, target))
    return values.to_numpy(zero_copy_only=False)


def codes_of_tokens(
    column: pa.Array, length_R: NDArray[np.int64], codes: dict[str, int], where: str
) -> NDArray[np.int32]:
    """Return the code of every token's text, -1 where there is none, adding new texts to `codes`."""
    there_N = _spread(column, length_R)
    values = _encoded(column.flatten(), codes, where)
    if there_N is None:
        return values
    out = np.full(len(there_N), -1, np.int32)
    out[there_N] = values
    return out


def _encoded(values: pa.Array, codes: dict[str, int], where: str) -> NDArray[np.int32]:
    """Return the code of every text, -1 for null, adding new texts to `codes`."""
    import pyarrow as pa

    if pa.types.is_null(values.type):
        return np.full(len(values), -1, np.int32)
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    words = values.dictionary
    if not _is_text(words.type):
        raise InputError(f"{where} holds {words.type} where token texts belong")
    new = np.array([codes.setdefault(word, len(codes)) for word in _decoded(words)] or [-1], np.int32)
    indices = values.indices.fill_null(-1) if values.indices.null_count else values.indices
    places = indices.to_numpy(zero_copy_only=False)
    if places.size and int(places.max()) >= len(new):
        raise InputError(f"{where} is damaged: a text is not in its dictionary; copy the file again")
    return np.where(places < 0, np.int32(-1), new[places]).astype(np.int32)


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _decoded(words: pa.Array) -> list[str]:
    """Return strings; bytes that are not UTF-8, which arrow does not check, become visible escapes."""
    import pyarrow as pa

    return [str(word or b"", "utf-8", "backslashreplace") for word in words.cast(pa.large_binary()).to_pylist()]


def alternatives_of_tokens(
    lists: Mapping[str, pa.Array], length_R: NDArray[np.int64], codes: dict[str, int], where: Mapping[str, str]
) -> Alternatives:
    """Return the alternatives of every token from the columns `top_logp`, `top_ids` and `top_tokens`."""
    count_N, leaf = _leaf(lists["top_logp"], length_R, where["top_logp"])
    id_M = text_M = np.full(len(leaf), -1, np.int32)
    for name in ("top_ids", "top_tokens"):
        if name not in lists:
            continue
        own_N, own = _leaf(lists[name], length_R, where[name])
        if not own_N.any():
            continue
        if not np.array_equal(own_N, count_N):
            raise InputError(f"{where[name]} does not fit top_logp: give one log-prob for every alternative")
        if name == "top_ids":
            id_M = _plain(own, np.int32, -1, where[name])
        else:
            text_M = _encoded(own, codes, where[name])
    offsets_N = np.concatenate([[0], np.cumsum(count_N)]).astype(np.int64)
    logp_M = _plain(leaf, np.float32, math.nan, where["top_logp"])
    return Alternatives(offsets_N=offsets_N, id_M=id_M, text_M=text_M, logp_M=logp_M)


def _leaf(column: pa.Array, length_R: NDArray[np.int64], where: str) -> tuple[NDArray[np.int64], pa.Array]:
    """Return how many alternatives every token has, and all of them one after the other."""
    inner = as_list(column.flatten(), where, True)
    there_N = _spread(column, length_R)
    own = np.maximum(lengths(inner), 0)
    if there_N is None:
        return own, inner.flatten()
    count_N = np.zeros(len(there_N), np.int64)
    count_N[there_N] = own
    return count_N, inner.flatten()


def text_of_rows(column: pa.Array | None, rows: int) -> tuple[str | None, ...]:
    """Return one text a row, None where there is none; bytes that are not UTF-8 become visible escapes."""
    import pyarrow as pa

    if column is None:
        return (None,) * rows
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not _is_text(column.type):
        return tuple(as_text(value) for value in column.to_pylist())
    words = column.cast(pa.large_binary()).to_pylist()
    return tuple(None if word is None else str(word, "utf-8", "backslashreplace") for word in words)


def numbers_of_rows(column: pa.Array | None, rows: int, kind: Any, fill: Any, where: str) -> NDArray[Any]:
    """Return one number a row, `fill` for null and for a column that is not there."""
    return np.full(rows, fill, kind) if column is None else _plain(column, kind, fill, where)
