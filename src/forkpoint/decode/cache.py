"""A key-value cache in blocks of columns, whose rows all end at the same column.

Every row's tokens lie in consecutive columns that end at the cursor, so one step writes one column for all rows.
A block holds only the leading rows that reach it: rows stand in the order in which they entered, so old columns,
which only long answers need, hold few rows. Distances between columns are distances between positions, so
sliding windows stay correct.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

BLOCK = 32
"""Columns of a block. Tight blocks keep what a step reads close together."""
ROOM = 512
"""Columns that a cache without blocks has ready for growth, at most."""


@dataclass
class Block:
    """Keys and values (rows, heads, capacity, width) of consecutive columns, [0, filled) written."""

    keys: Tensor
    values: Tensor
    filled: int


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, oldest columns first.

    Args:
        blocks: what is filled so far.
        split: whether columns stay in blocks, for `forkpoint.decode.attention`; otherwise `update` returns them in
            one piece, as any attention function expects.
    """

    is_sliding = False

    def __init__(self, blocks: list[Block], *, split: bool) -> None:
        super().__init__()
        self.blocks, self.split = blocks, split
        self.length = sum(block.filled for block in blocks)
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: a slot layer is born with its prompt's keys and values."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write one column at the cursor; return it, or all filled columns where they are in one piece."""
        last = self.write(key_states[:, :, 0], value_states[:, :, 0])
        if self.split:
            return key_states, value_states
        return last.keys[:, :, : last.filled], last.values[:, :, : last.filled]

    def write(self, keys_RHD: Tensor, values_RHD: Tensor) -> Block:
        """Write one column at the cursor and return its block."""
        last = self.blocks[-1]
        if last.filled == last.keys.shape[2] or (len(self.blocks) > 1 and not self.split):
            self._open(keys_RHD)
            last = self.blocks[-1]
        last.keys[:, :, last.filled] = keys_RHD
        last.values[:, :, last.filled] = values_RHD
        last.filled += 1
        self.length += 1
        return last

    def _open(self, keys_RHD: Tensor) -> None:
        """Make room for the next column: a new block, or one wider piece."""
        if self.split:
            rows, heads, width = keys_RHD.shape
            last = self.blocks[-1]
            keys = last.keys.new_empty(rows, heads, BLOCK, width)
            self.blocks.append(Block(keys, last.values.new_empty(rows, heads, BLOCK, last.values.shape[3]), 0))
            return
        capacity = self.length + max(64, self.length // 2)
        keys, values = (_joined([_filled(block, name) for block in self.blocks], capacity) for name in _PAIR)
        self.blocks = [Block(keys, values, self.length)]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return (columns visible to the query, offset)."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Return the number of filled columns."""
        return self.length

    def get_max_length(self) -> int:
        """Return -1: the layer grows."""
        return -1


_PAIR = ("keys", "values")


def _filled(block: Block, name: str) -> Tensor:
    return getattr(block, name)[:, :, : block.filled]


def _joined(parts: list[Tensor], capacity: int) -> Tensor:
    # What lies beyond the filled columns is never read before it is written.
    rows = max(part.shape[0] for part in parts)
    wide = parts[0].new_empty(rows, parts[0].shape[1], capacity, parts[0].shape[3])
    at = 0
    for part in parts:
        wide[: part.shape[0], :, at : at + part.shape[2]] = part
        wide[part.shape[0] :, :, at : at + part.shape[2]] = 0
        at += part.shape[2]
    return wide


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


def rebuilt(
    cache: Cache | None,
    keep: Sequence[int],
    lengths: Sequence[int],
    fresh: list[tuple[Tensor, Tensor]] | None,
    *,
    split: bool,
    room: int,
) -> Cache:
    """Return a cache of the rows `keep` followed by fresh ones, without columns and blocks that no row needs.

    Args:
        cache: what the kept rows are in; None when there are none.
        keep: rows to keep, ascending.
        lengths: columns each kept row needs, the last `lengths[i]` before the cursor.
        fresh: a layer each, keys and values of the fresh rows, right-aligned; or None.
        split: whether columns stay in blocks.
        room: free columns to allocate where they do not.
    """
    layers: list[Any] = [None] * len(fresh or ()) if cache is None else cache.layers
    made = []
    for index, layer in enumerate(layers):
        entering = fresh[index] if fresh else None
        blocks = _rebuilt(layer, keep, lengths, entering, split=split, room=min(room, ROOM))
        made.append(SlotLayer(blocks, split=split))
    return Cache(layers=made)


def _rebuilt(
    layer: SlotLayer | None,
    keep: Sequence[int],
    lengths: Sequence[int],
    fresh: tuple[Tensor, Tensor] | None,
    *,
    split: bool,
    room: int,
) -> list[Block]:
    width = fresh[0].shape[2] if fresh is not None else 0
    if layer is None or not keep:
        spare = math.ceil((width + 1) / BLOCK) * BLOCK if split else width + room
        keys, values = (_joined([x], spare) for x in fresh or ())
        return [Block(keys, values, width)]
    start_K = [layer.length - length for length in lengths]
    first = min(*start_K, layer.length - width)
    blocks, at = [], 0
    if first < 0:
        # Fresh prompts reach further back than the cache: a block before the others.
        blocks.append(_patched(None, [], 0, len(keep), fresh, layer.length, first, 0, room=0))
    for index, block in enumerate(layer.blocks):
        end = at + block.filled
        reached = fresh is not None and layer.length - width < end
        needed = max((place + 1 for place, start in enumerate(start_K) if start < end), default=0)
        rows = len(keep) if reached else needed
        if rows:
            # Only a cache in one piece pays for columns that all rows have left behind.
            trim = 0 if split else min(max(first - at, 0), block.filled)
            more = 0 if split or index + 1 < len(layer.blocks) else room
            source = [row for row in keep[:rows] if row < block.keys.shape[0]]
            columns = (fresh if reached else None, layer.length, at + trim, end)
            blocks.append(_patched(block, source, trim, rows, *columns, room=more))
        at = end
    return blocks


def _patched(
    block: Block | None,
    source: list[int],
    trim: int,
    kept: int,
    fresh: tuple[Tensor, Tensor] | None,
    cursor: int,
    begin: int,
    end: int,
    *,
    room: int,
) -> Block:
    """Return a block of the columns [begin, end): rows `source` of the old one, up to `kept`, then fresh rows."""
    rows = kept + (fresh[0].shape[0] if fresh is not None else 0)
    pair = []
    for which, name in enumerate(_PAIR):
        like = getattr(block, name) if block is not None else fresh[which]  # type: ignore[index]
        capacity = (like.shape[2] - trim + room) if block is not None else end - begin
        new = like.new_empty(rows, like.shape[1], capacity, like.shape[3])
        if source:
            index = torch.tensor(source, device=like.device)
            if not trim and capacity == like.shape[2]:
                torch.index_select(like, 0, index, out=new[: len(source)])
            else:
                new[: len(source), :, : end - begin] = like[:, :, trim : trim + end - begin][index]
        # Columns a row does not use are masked, which multiplies them by zero: they must be numbers.
        new[len(source) :, :, : end - begin] = 0
        if fresh is not None:
            x = fresh[which]
            left = max(begin, cursor - x.shape[2])
            new[kept:, :, left - begin : end - begin] = x[:, :, left - cursor + x.shape[2] : end - cursor + x.shape[2]]
        pair.append(new)
    return Block(pair[0], pair[1], end - begin)
