"""A key-value cache whose rows all end at the same column.

Every row's tokens lie in consecutive columns that end at the cursor, so one step writes one column for all
rows, a finished row leaves by being dropped, and a new row enters by placing its prompt right before the
cursor. Distances between columns are distances between positions, so sliding windows stay correct.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer: (rows, heads, capacity, width), columns [0, length) filled."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor, capacity: int) -> None:
        super().__init__()
        self.length = keys.shape[2]
        self.keys, self.values = _grown(keys, capacity), _grown(values, capacity)
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: a slot layer is born with its prompt's keys and values."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write new columns at the cursor and return all filled columns."""
        end = self.length + key_states.shape[2]
        if end > self.keys.shape[2]:
            capacity = max(end, self.keys.shape[2] * 3 // 2)
            self.keys, self.values = _grown(self.keys, capacity), _grown(self.values, capacity)
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return (columns visible to the query, offset)."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Return the number of filled columns."""
        return self.length

    def get_max_length(self) -> int:
        """Return -1: the layer grows."""
        return -1


def _grown(x: Tensor, capacity: int) -> Tensor:
    # What lies beyond the filled columns is never read before it is written.
    wide = x.new_empty(*x.shape[:2], max(capacity, x.shape[2]), x.shape[3])
    wide[:, :, : x.shape[2]] = x
    return wide


def slot_cache(columns: list[tuple[Tensor, Tensor]], capacity: int) -> Cache:
    """Return a cache from one (keys, values) pair a layer, with room for `capacity` columns."""
    return Cache(layers=[SlotLayer(keys, values, capacity) for keys, values in columns])


def right_aligned(columns: list[tuple[Tensor, Tensor]], length_R: Tensor, width: int) -> list[tuple[Tensor, Tensor]]:
    """Return left-aligned columns moved so that every row ends at column `width`.

    Args:
        columns: a layer each, (rows, heads, L, D), row r filled in [0, length_R[r]).
        length_R: int64 (rows,).
        width: columns of the result, >= every length.
    """
    source_RW = torch.arange(width, device=length_R.device)[None] - (width - length_R[:, None])
    row_R1 = torch.arange(length_R.numel(), device=length_R.device)[:, None]
    index_RW = source_RW.clamp(min=0)
    return [
        (keys[row_R1, :, index_RW].transpose(1, 2), values[row_R1, :, index_RW].transpose(1, 2))
        for keys, values in columns
    ]


def filled(cache: Cache) -> list[tuple[Tensor, Tensor]]:
    """Return the filled columns of every layer as views."""
    return [(layer.keys[:, :, : layer.length], layer.values[:, :, : layer.length]) for layer in cache.layers]


def merged(
    cache: Cache, keep_R: Tensor, drop_columns: int, extra: list[tuple[Tensor, Tensor]] | None, room: int
) -> Cache:
    """Return a cache with only the rows `keep_R`, fewer leading columns, and new rows added at the end.

    Args:
        cache: the cache to shrink.
        keep_R: int64, rows to keep.
        drop_columns: leading columns to drop; negative adds empty ones.
        extra: new rows as wide as the columns that remain, or None.
        room: free columns to allocate beyond the filled ones.
    """
    columns = []
    for index, (keys, values) in enumerate(filled(cache)):
        pair = []
        for which, x in enumerate((keys, values)):
            kept = x[keep_R][:, :, max(drop_columns, 0) :]
            if drop_columns < 0:
                kept = torch.cat([kept.new_zeros(*kept.shape[:2], -drop_columns, kept.shape[3]), kept], dim=2)
            pair.append(kept if extra is None else torch.cat([kept, extra[index][which]], dim=0))
        columns.append((pair[0], pair[1]))
    return slot_cache(columns, columns[0][0].shape[2] + room)
