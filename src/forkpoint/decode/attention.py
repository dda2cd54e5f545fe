"""Attention of one new token a row over a cache in blocks.

With s = q k^T scale + mask and p = softmax(s), the result is p v. The query heads that share a key-value head are
the rows of one matrix product, so keys and values are read once and never repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from forkpoint.decode.cache import Block, SlotLayer
from forkpoint.errors import InputError
from forkpoint.model import plain

NAME = "forkpoint_blocks"
"""The name under which transformers knows `block_attention`."""


class NotUnderstoodError(InputError):
    """The model asks its attention for something `block_attention` does not compute."""


def block_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    blocks: list[SlotLayer] | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Return attention of one new token a row over the blocks of its layer's cache.

    Args:
        module: the attention layer; its `layer_idx` finds the cache.
        query: (rows, heads, 1, width), rotated.
        key: not read: the cache has it.
        value: not read.
        attention_mask: (rows, 1, 1, columns), bool or added to the scores; None sees every column.
        scaling: of the scores; None is width ** -0.5.
        softcap: c of c tanh(s / c), before the mask.
        blocks: the layers of the cache.
        others: dropout and the like, which must not ask for anything.

    Returns:
        ((rows, 1, heads, width), None).
    """
    strange = sorted(set(others) & {"s_aux", "position_bias", "sinks"} - {k for k, v in others.items() if v is None})
    if blocks is None or query.shape[2] != 1 or others.get("dropout", 0.0) or strange:
        raise NotUnderstoodError(f"block attention of {type(module).__name__} is not understood")
    width = query.shape[3]
    q_RHD = query[:, :, 0] * (width**-0.5 if scaling is None else scaling)
    return over_blocks(blocks[module.layer_idx], q_RHD, _additive(attention_mask, query.dtype), softcap)[:, None], None


def over_blocks(layer: SlotLayer, q_RHD: Tensor, bias: Tensor | None, softcap: float | None = None) -> Tensor:
    """Return attention (rows, heads, width) of scaled queries over a layer's blocks.

    Args:
        layer: keys and values.
        q_RHD: queries, one token a row, already scaled.
        bias: (rows, 1, 1, columns), added to the scores; None sees every column.
        softcap: c of c tanh(s / c), before the bias.
    """
    R, heads, width = q_RHD.shape
    kv = layer.blocks[-1].keys.shape[1]
    group = heads // kv
    q = q_RHD.reshape(R * kv, group, width)
    parts, at = [], 0
    for block in layer.blocks:
        n, end = block.keys.shape[0], at + block.filled
        keys = block.keys.view(n * kv, -1, width)[:, : block.filled]
        part = torch.bmm(q[: n * kv], keys.transpose(1, 2)).view(n, kv, group, block.filled)
        if softcap is not None:
            part = softcap * torch.tanh(part / softcap)
        parts.append(part if bias is None else part.add_(bias[:n, :, :, at:end]))
        at = end
    if len(parts) == 1:
        s = parts[0]
    else:
        s = q.new_empty(R, kv, group, layer.length)
        at = 0
        for part in parts:
            n, end = part.shape[0], at + part.shape[3]
            s[:n, ..., at:end] = part
            if n < R:
                s[n:, ..., at:end] = -torch.inf
            at = end
    p = torch.softmax(s, -1).view(R * kv, group, layer.length)
    begin = layer.length - layer.blocks[-1].filled
    # The newest block has all rows, so it starts the sum.
    out = torch.bmm(p[:, :, begin:], _values(layer.blocks[-1]))
    for block in reversed(layer.blocks[:-1]):
        n, begin = block.keys.shape[0] * kv, begin - block.filled
        out[:n].baddbmm_(p[:n, :, begin : begin + block.filled], _values(block))
    return out.view(R, heads, -1)


def _values(block: Block) -> Tensor:
    rows, heads, capacity, width = block.values.shape
    return block.values.view(rows * heads, capacity, width)[:, : block.filled]


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)


@contextmanager
def attending(model: Any, name: str | None) -> Iterator[None]:
    """Run the model's attention through the function of that name; None leaves it as it is."""
    config = plain(model).config.get_text_config()
    before = config._attn_implementation
    if name is None:
        yield
        return
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before
