"""The two tile epilogues as one Triton kernel each: `forkpoint.entropy.tiles` is their specification.

A tile is read once from memory where torch needs one pass per operation. The kernels use plain operations of the
Triton language only, so that they run in its interpreter (TRITON_INTERPRET=1) and compile for every architecture.
They have been run in the interpreter and compiled for sm_80, sm_90 and sm_100; they have not run on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from forkpoint.entropy.tiles import FLOOR, Running, Shape, Upstream

BLOCK = 2048
"""Words of a row that a program holds at once."""
WARPS = 8
_FLOOR = tl.constexpr(FLOOR)


def fold(
    u_NC: Tensor,
    sums: Running,
    ids_N: Tensor,
    bias_C: Tensor | None,
    first: int,
    shape: Shape,
    *,
    block: int = BLOCK,
) -> None:
    """Add a tile of products to the running sums of its rows, in place: `forkpoint.entropy.tiles.fold`.

    Args:
        u_NC: float32 (N, C), rows contiguous; read only.
        sums: float32 and float64 as `tiles.running` makes them, contiguous.
        ids_N: int64 (N,), contiguous.
        bias_C: contiguous or None.
        first: id of the block's first word.
        shape: how a product becomes a logit.
        block: words a program holds at once, a power of 2.
    """
    rows, columns = u_NC.shape
    if rows and columns:
        bias = u_NC if bias_C is None else bias_C
        fold_kernel[(rows,)](
            u_NC, u_NC.stride(0), ids_N, bias, *sums, first, columns, *_numbers(shape)[:2],
            HAS_BIAS=bias_C is not None, HAS_CAP=shape.softcap is not None, BLOCK=block, num_warps=WARPS,
        )  # fmt: skip


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
    *,
    block: int = BLOCK,
) -> Tensor:
    """Turn a tile of products into the gradient dL/du: `forkpoint.entropy.tiles.to_dlogits`.

    Args:
        u_NC: float32 (N, C), rows contiguous; overwritten if it has the dtype asked for.
        ids_N: int64 (N,), contiguous, as all that follows.
        log_partition_N: log Z.
        entropy_N: H; needed where `upstream.entropy_N` is given.
        upstream: a, b, c.
        bias_C: bias of the block or None.
        first: id of the block's first word.
        shape: how a product becomes a logit.
        dtype: of the returned gradient.
        block: words a program holds, a power of 2.

    Returns:
        (N, C) of this dtype.
    """
    rows, columns = u_NC.shape
    out = u_NC if u_NC.dtype == dtype else torch.empty_like(u_NC, dtype=dtype)
    a, b, c = upstream
    with_entropy = b is not None and entropy_N is not None
    if rows and columns:
        bias = u_NC if bias_C is None else bias_C
        more = (b, entropy_N) if with_entropy else (a, a)
        dlogits_kernel[(rows, triton.cdiv(columns, block))](
            u_NC, u_NC.stride(0), out, out.stride(0), ids_N, bias, log_partition_N, a, c, *more,
            first, columns, *_numbers(shape),
            HAS_BIAS=bias_C is not None, HAS_CAP=shape.softcap is not None, HAS_ENTROPY=with_entropy,
            BLOCK=block, num_warps=WARPS,
        )  # fmt: skip
    return out


def _numbers(shape: Shape) -> tuple[float, float, float]:
    """Return what multiplies the product before and after the soft-cap, and dz/du at tanh = 0."""
    slope = shape.scale / shape.temperature
    if shape.softcap is None:
        return slope, 1.0, slope
    return shape.scale / shape.softcap, shape.softcap / shape.temperature, slope


@triton.jit
def _logit(u, bias, inner, outer, HAS_BIAS: tl.constexpr, HAS_CAP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return logits of products, and their tanh where there is a soft-cap."""
    z = u
    if HAS_BIAS:
        z += bias
    z *= inner
    tanh = z
    if HAS_CAP:
        # Without the device library there is no tanh; 2 σ(2x) - 1 is off by an ulp of 1, not of tanh.
        tanh = 2.0 * tl.sigmoid(2.0 * z) - 1.0
        z = outer * tanh
        if HAS_BIAS:
            z = tl.where(bias == -float("inf"), bias, z)
    return z, tanh


@triton.jit
def fold_kernel(  # type: ignore[no-untyped-def]  # noqa: D103
    u_ptr,
    u_stride,
    ids_ptr,
    bias_ptr,
    top_ptr,
    total_ptr,
    centred_ptr,
    target_ptr,
    first,
    columns,
    inner,
    outer,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    u_row = u_ptr + row * u_stride
    top = tl.load(top_ptr + row)
    total = tl.load(total_ptr + row)
    centred = tl.load(centred_ptr + row)
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < columns
        u = tl.load(u_row + at, mask=inside, other=0.0)
        bias = u
        if HAS_BIAS:
            bias = tl.load(bias_ptr + at, mask=inside, other=0.0).to(tl.float32)
        z, _ = _logit(u, bias, inner, outer, HAS_BIAS, HAS_CAP)
        # A comparison and not a maximum: a maximum would hide NaN.
        z = tl.where(inside, z, _FLOOR)
        z = tl.where(z < _FLOOR, _FLOOR, z)
        new_top = tl.maximum(top, tl.max(z, axis=0))
        shift = top - new_top
        decay = tl.exp(shift)
        z -= new_top
        weights = tl.exp(z)
        centred = decay * (centred + shift * total) + tl.sum(weights * z, axis=0)
        total = decay * total + tl.sum(weights, axis=0)
        top = new_top
    tl.store(top_ptr + row, top)
    tl.store(total_ptr + row, total)
    tl.store(centred_ptr + row, centred)
    target = tl.load(ids_ptr + row) - first
    here = (target >= 0) & (target < columns)
    u = tl.load(u_row + target, mask=here, other=0.0)
    bias = u
    if HAS_BIAS:
        bias = tl.load(bias_ptr + target, mask=here, other=0.0).to(tl.float32)
    z, _ = _logit(u, bias, inner, outer, HAS_BIAS, HAS_CAP)
    tl.store(target_ptr + row, z, mask=here)


@triton.jit
def dlogits_kernel(  # type: ignore[no-untyped-def]  # noqa: D103
    u_ptr,
    u_stride,
    out_ptr,
    out_stride,
    ids_ptr,
    bias_ptr,
    log_partition_ptr,
    a_ptr,
    c_ptr,
    b_ptr,
    entropy_ptr,
    first,
    columns,
    inner,
    outer,
    slope,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    HAS_ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < columns
    u = tl.load(u_ptr + row * u_stride + at, mask=inside, other=0.0)
    bias = u
    if HAS_BIAS:
        bias = tl.load(bias_ptr + at, mask=inside, other=0.0).to(tl.float32)
    z, tanh = _logit(u, bias, inner, outer, HAS_BIAS, HAS_CAP)
    a = tl.load(a_ptr + row)
    log_p = z - tl.load(log_partition_ptr + row)
    weight = tl.load(c_ptr + row) - a
    if HAS_ENTROPY:
        floored = tl.where(log_p < _FLOOR, _FLOOR, log_p)
        weight = weight - tl.load(b_ptr + row) * (floored + tl.load(entropy_ptr + row))
    target = tl.load(ids_ptr + row) - first
    d = tl.exp(log_p) * weight + tl.where(at == target, a, 0.0)
    d *= slope
    if HAS_CAP:
        d *= 1.0 - tanh * tanh
    tl.store(out_ptr + row * out_stride + at, d.to(out_ptr.dtype.element_ty), mask=inside)
