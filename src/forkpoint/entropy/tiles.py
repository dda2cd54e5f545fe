"""What is done to a tile of products between two matrix products: the specification, in plain torch operations.

A tile u holds hidden states times a block of the head's words, (N, C), nothing else applied. `fold` adds it to the
running sums of its rows, `to_dlogits` turns it into the gradient of a loss with respect to u. Both apply bias, scale,
soft-cap and temperature on the fly (a word whose bias is -inf stays at -inf under a soft-cap):

    z = c tanh(s (u + bias) / c) / T      or, without a soft-cap c,      z = s (u + bias) / T

`forkpoint.entropy.tiles_triton` has the same two functions as one kernel each.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from forkpoint.errors import InputError

Backend = Literal["auto", "torch", "triton"]
FLOOR = -1e30
"""Logit of a masked word inside the sums: its weight is exactly 0 and, unlike -inf, 0 * FLOOR is 0."""


class Shape(NamedTuple):
    """How a product becomes a logit."""

    temperature: float
    """T > 0."""
    scale: float
    """s, factor on the product."""
    softcap: float | None
    """c > 0 or None."""


class Running(NamedTuple):
    """Sums over the words seen so far, each (N,); `fold` writes into them.

    The two sums over blocks are float64, so that a head of many blocks is as exact as one of a single block.
    """

    top_N: Tensor
    """max_v z_v, at least `FLOOR`."""
    total_N: Tensor
    """Σ_v exp(z_v - top)."""
    centred_N: Tensor
    """Σ_v exp(z_v - top) (z_v - top)."""
    target_N: Tensor
    """z of the given id, 0 until its block has been seen."""


class Upstream(NamedTuple):
    """Gradients of the loss with respect to the head's outputs, each (N,) in the dtype of the tile."""

    logp_N: Tensor
    entropy_N: Tensor | None
    """None when the entropy carries no gradient."""
    log_partition_N: Tensor


class Epilogues(NamedTuple):
    """The pair of functions of one backend."""

    fold: Callable[..., None]
    to_dlogits: Callable[..., Tensor]


def epilogues(backend: Backend, device: torch.device, dtype: torch.dtype) -> Epilogues:
    """Return the functions that work on tiles of this dtype on this device.

    Args:
        backend: "auto" is "triton" for float32 tiles on CUDA where Triton can be imported, else "torch".
        device: of the tiles.
        dtype: of the tiles.

    Raises:
        InputError: "triton" without Triton, for tiles that are not float32, or on a device that it does not run on.

    >>> epilogues("auto", torch.device("cpu"), torch.float32).fold is fold
    True
    """
    if backend not in ("auto", "torch", "triton"):
        raise InputError(f"backend {backend!r} is unknown: valid names are auto, torch, triton")
    on_cuda, exact = device.type == "cuda", dtype == torch.float32
    if backend == "torch" or (backend == "auto" and not (on_cuda and exact)):
        return Epilogues(fold, to_dlogits)
    if not exact:
        raise InputError(f"backend 'triton' works on float32 tiles, not {dtype}; use backend 'torch'")
    if not on_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise InputError(f"backend 'triton' needs CUDA tensors, these are on {device.type}; use backend 'torch'")
    try:
        from forkpoint.entropy import tiles_triton
    except ImportError as error:
        if backend == "auto":
            return Epilogues(fold, to_dlogits)
        raise InputError("backend 'triton' needs the package triton: install it or use backend 'torch'") from error
    return Epilogues(tiles_triton.fold, tiles_triton.to_dlogits)


def running(rows: int, like: Tensor, dtype: torch.dtype) -> Running:
    """Return the sums before any word has been seen, on the device of `like`."""
    target = torch.zeros(rows, dtype=dtype, device=like.device)
    total = torch.zeros(rows, dtype=torch.float64, device=like.device)
    return Running(torch.full_like(target, FLOOR), total, total.clone(), target)


def fold(u_NC: Tensor, sums: Running, ids_N: Tensor, bias_C: Tensor | None, first: int, shape: Shape) -> None:
    """Add a tile of products to the running sums of its rows, in place; the tile is used up.

    Moving the maximum by d multiplies both sums by exp(d) and shifts the centred one by d total.

    Args:
        u_NC: (N, C) products of words first .. first + C - 1, float32 or float64; overwritten.
        sums: sums over earlier words; overwritten.
        ids_N: int64 (N,), ids in the whole vocabulary; an id outside this block leaves `target_N` alone.
        bias_C: bias of the block or None; -inf masks a word.
        first: id of the block's first word.
        shape: how a product becomes a logit.

    Source: online softmax, arXiv 1805.02867.

    >>> sums = running(1, torch.zeros(1), torch.float32)
    >>> fold(torch.zeros(1, 4), sums, torch.tensor([2]), None, 0, Shape(1.0, 1.0, None))
    >>> float(sums.total_N)
    4.0
    """
    z = _logits(u_NC, bias_C, shape)
    at, inside = _place(ids_N, first, z.shape[1])
    sums.target_N.copy_(torch.where(inside, z.gather(1, at).squeeze(1), sums.target_N))
    if bias_C is not None:
        z.clamp_(min=FLOOR)
    top = torch.maximum(sums.top_N, z.amax(1))
    shift = (sums.top_N - top).double()
    decay = shift.exp()
    weights = z.sub_(top[:, None]).exp()
    sums.centred_N.add_(sums.total_N * shift).mul_(decay)
    sums.total_N.mul_(decay).add_(weights.sum(1))
    sums.centred_N.add_(weights.mul_(z).sum(1))
    sums.top_N.copy_(top)


def to_dlogits(
    u_NC: Tensor,
    ids_N: Tensor,
    log_partition_N: Tensor,
    entropy_N: Tensor | None,
    upstream: Upstream,
    bias_C: Tensor | None,
    first: int,
    shape: Shape,
    dtype: torch.dtype,
) -> Tensor:
    """Turn a tile of products u into the gradient dL/du, in place where the dtype allows it.

    With a, b, c the gradients that arrive at log p(y), H and log Z:

        dL/dz_v = a 1[v = y] + p_v (c - a - b (log p_v + H))        dL/du_v = dL/dz_v (1 - tanh²) s / T

    Args:
        u_NC: (N, C) products, as in `fold`; overwritten.
        ids_N: int64 (N,), ids in the whole vocabulary.
        log_partition_N: log Z of the rows.
        entropy_N: H of the rows; needed where `upstream.entropy_N` is given.
        upstream: a, b, c.
        bias_C: bias of the block or None.
        first: id of the block's first word.
        shape: how a product becomes a logit.
        dtype: of the returned gradient.

    Returns:
        (N, C): the tile itself if it has this dtype, else a new tensor.

    >>> one, none = torch.ones(1), torch.zeros(1)
    >>> log_z = torch.full((1,), 4.0).log()
    >>> to_dlogits(torch.zeros(1, 4), torch.tensor([2]), log_z, None, Upstream(one, None, none), None, 0,
    ...            Shape(1.0, 1.0, None), torch.float32)
    tensor([[-0.2500, -0.2500,  0.7500, -0.2500]])
    """
    a, b, c = upstream
    factor = shape.scale / shape.temperature
    z = _logits(u_NC, bias_C, shape)
    slope = None
    if shape.softcap is not None:
        tanh = (z * (shape.temperature / shape.softcap)).clamp_(min=-1.0)
        slope = tanh.square_().neg_().add_(1.0)
    log_p = z.sub_(log_partition_N[:, None])
    even = (c - a) * factor
    if b is None or entropy_N is None:
        d_z = log_p.exp_().mul_(even[:, None])
    else:
        p = log_p.exp()
        d_z = log_p.clamp_(min=FLOOR).add_(entropy_N[:, None]).mul_((-factor * b)[:, None]).add_(even[:, None]).mul_(p)
    at, inside = _place(ids_N, first, d_z.shape[1])
    d_z.scatter_add_(1, at, torch.where(inside, a * factor, 0.0)[:, None])
    if slope is not None:
        d_z.mul_(slope)
    return d_z.to(dtype)


def _logits(u: Tensor, bias: Tensor | None, shape: Shape) -> Tensor:
    """Apply bias, scale, soft-cap and temperature in place."""
    if bias is not None:
        u.add_(bias)
    cap = shape.softcap
    inner, outer = (
        (shape.scale / shape.temperature, 1.0) if cap is None else (shape.scale / cap, cap / shape.temperature)
    )
    if inner != 1.0:
        u.mul_(inner)
    if cap is not None:
        u.tanh_().mul_(outer)
        if bias is not None:
            u.masked_fill_(bias == -torch.inf, -torch.inf)
    return u


def _place(ids: Tensor, first: int, columns: int) -> tuple[Tensor, Tensor]:
    """Return the column (N, 1) of each id in the block, and whether it is there; without a host synchronisation."""
    at = ids - first
    return at.clamp(0, columns - 1)[:, None], (at >= 0) & (at < columns)
