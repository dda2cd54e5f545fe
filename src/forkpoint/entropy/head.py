"""The entropy head: hidden states to log-prob, entropy and log-partition, without ever holding (N, V) logits.

The forward pass folds tiles of logits into running sums. The backward pass looks at the gradient that arrives and
drops every row where it is zero, whatever made it zero (selection, clip, zero advantage, padding): it is exact for
every method and knows none of them. With share the fraction of rows that learn, it costs (2 + 6 share) N H V
floating-point operations in place of 8 N H V, and one gradient of the weight in the weight's own dtype.

The products are those of the device's libraries; what happens to a tile between them is `forkpoint.entropy.tiles`.
Everything here has been run on CPU; what is done for CUDA has not been run on a GPU.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from forkpoint import products
from forkpoint.entropy.tiles import FLOOR, Backend, Epilogues, Running, Shape, Upstream, epilogues, running
from forkpoint.errors import InputError, NotFiniteRowError


class HeadOut(NamedTuple):
    """What the head says of N tokens, all float32 (float64 for float64 input) of shape (N,)."""

    logp_N: Tensor
    """Log-prob of the given ids."""
    entropy_N: Tensor
    """Entropy in nats."""
    log_partition_N: Tensor
    """log Σ_v exp(z_v)."""


class Limits(NamedTuple):
    """Size of a tile of logits on a device."""

    cells: int
    """Most logits held at once."""
    rows: int
    """Most rows of a tile in the forward pass; the backward pass takes all that learn."""
    columns: int
    """Most words of a tile."""


LIMITS = {
    # A processor's tile stays in its cache between the products; a wider dW product was measured to be slower.
    "cpu": Limits(1 << 20, 1024, 2048),
    # 256 MiB in float32: derived from the traffic of an H200, not measured on one.
    "cuda": Limits(1 << 26, 8192, 1 << 26),
}
WIDE_PRODUCTS = ("cuda",)
"""Devices on which torch multiplies bfloat16 matrices into a float32 one."""
FAST_WORK = 1 << 28
"""N H V of a pass from which oneDNN's time to build kernels for a new N (about 1 ms each) is won back."""

STRIP, LONG_STRIP = 128, 256
"""oneDNN sums in one chain; in strips of this length the float32 results are as exact as those of torch's product."""


class _Spec(NamedTuple):
    """Everything about a call that is not a tensor."""

    shape: Shape
    entropy_gradient: bool
    limits: Limits
    narrow: torch.dtype
    """What operands are rounded to."""
    wide: torch.dtype
    """What products are accumulated in."""
    tile: Epilogues


def head_logp_entropy(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    ids_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    temperature: float = 1.0,
    scale: float = 1.0,
    softcap: float | None = None,
    entropy_gradient: bool = False,
    tile_cells: int | None = None,
    backend: Backend = "auto",
) -> HeadOut:
    """Return log-prob of the given ids, entropy and log-partition of the head's distribution.

    With z = c tanh(u / c) / T, u = scale (h W^T + b) (no tanh without a soft-cap c) and p = softmax(z):

        log p(y) = z_y - log Z        H = log Z - Σ_v p_v z_v        log Z = log Σ_v exp(z_v)

    Equal to `forkpoint.entropy.token.token_logp_entropy` on materialised logits. Tiles of logits are float32 for
    float32, bfloat16 and float16 operands. Under `torch.autocast` operands are rounded to its dtype, and gradients
    come back in the dtypes of their inputs.

    Args:
        hidden_NH: (N, H), the states that predict the ids.
        weight_VH: (V, H), the lm-head; frozen, tied or neither.
        ids_N: int64 (N,), in [0, V).
        bias_V: (V,) or None; -inf masks a word of the vocabulary, with or without a soft-cap.
        temperature: T > 0.
        scale: factor on the product (Cohere's `logit_scale`, 1 / Granite's `logits_scaling`).
        softcap: c > 0 (Gemma) or None.
        entropy_gradient: whether the entropy carries gradient.
        tile_cells: most logits held at once, at least one row or column of them; None for `LIMITS` of the device.
        backend: what works on the tiles between the products. "triton" needs CUDA tensors, or Triton's interpreter;
            "auto" takes it for CUDA tensors where it is installed, else "torch", which is the specification.

    Returns:
        `HeadOut`. Gradient flows to hidden states, weight and bias through log-prob and log-partition, and through
        the entropy when asked for. Rows whose gradient is zero cost nothing in the backward pass. A given id whose
        word is masked has log-prob -inf.

    Raises:
        InputError: shapes or types that do not fit together, an id outside the vocabulary, a number out of range, a
            row whose log-partition is not finite, or a backend that cannot run here.

    Source: arXiv 2506.01939 eq. 1 for the entropy; the running sums are those of an online softmax
    (arXiv 1805.02867).

    >>> out = head_logp_entropy(torch.zeros(1, 2), torch.zeros(4, 2), torch.tensor([1]))
    >>> [round(float(x), 4) for x in out]
    [-1.3863, 1.3863, 1.3863]
    """
    shape = Shape(temperature, scale, softcap)
    _check_shapes(hidden_NH, weight_VH, ids_N, bias_V, shape)
    device = hidden_NH.device.type
    narrow = torch.promote_types(hidden_NH.dtype, weight_VH.dtype)
    if torch.is_autocast_enabled(device) and narrow != torch.float64:
        narrow = torch.get_autocast_dtype(device)
    wide = torch.promote_types(narrow, torch.float32)
    limits = LIMITS.get(device, LIMITS["cpu"])
    if tile_cells is not None:
        limits = limits._replace(cells=max(1, tile_cells))
    spec = _Spec(shape, entropy_gradient, limits, narrow, wide, epilogues(backend, hidden_NH.device, wide))
    bias_V = None if bias_V is None else bias_V.contiguous()
    out = HeadOut(*_Head.apply(hidden_NH, weight_VH, bias_V, ids_N.contiguous(), spec))
    _check_values(out, ids_N, weight_VH.shape[0])
    return out


class _Head(torch.autograd.Function):
    """The pair of passes; torch asks for a class here."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, spec: _Spec) -> Any:
        ctx.set_materialize_grads(False)
        with torch.autocast(hidden.device.type, enabled=False):
            sums = _fold(hidden, weight, bias, ids, spec)
        log_total = sums.total_N.log()
        log_partition = (sums.top_N + log_total).to(spec.wide)
        entropy = (log_total - sums.centred_N / sums.total_N).to(spec.wide)
        if not spec.entropy_gradient:
            ctx.mark_non_differentiable(entropy)
        ctx.save_for_backward(hidden, weight, bias, ids, log_partition, entropy if spec.entropy_gradient else None)
        ctx.spec = spec
        return sums.target_N - log_partition, entropy, log_partition

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        hidden, weight, bias, ids, log_partition, entropy = ctx.saved_tensors
        a, b, c = gradients
        learns = torch.zeros_like(ids, dtype=torch.bool)
        for gradient in gradients:
            if gradient is not None:
                learns |= gradient != 0
        # The only host synchronisation of the pass: how many rows learn.
        rows = learns.nonzero().squeeze(1)
        needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[1], bias is not None and ctx.needs_input_grad[2])
        if not rows.numel():
            nothing = (
                torch.zeros_like(x) if need else None for x, need in zip((hidden, weight, bias), needs, strict=True)
            )
            return *nothing, None, None
        zero = log_partition.new_zeros(rows.shape)
        upstream = Upstream(
            zero if a is None else a[rows], None if b is None else b[rows], zero if c is None else c[rows]
        )
        statistics = (ids[rows], log_partition[rows], None if entropy is None else entropy[rows])
        with torch.autocast(hidden.device.type, enabled=False):
            d_rows, d_weight, d_bias = _unfold(hidden[rows], weight, bias, statistics, upstream, ctx.spec, needs)
        d_hidden = None
        if d_rows is not None:
            d_hidden = torch.zeros_like(hidden).index_copy_(0, rows, d_rows.to(hidden.dtype))
        return d_hidden, d_weight, d_bias, None, None


def _fold(hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, spec: _Spec) -> Running:
    """Return the sums of every row over all words: vocabulary outermost, so that a block of it is cast once."""
    n, size = hidden.shape[0], weight.shape[0]
    hidden = _operand(hidden, spec)
    sums = running(n, hidden, spec.wide)
    columns = _columns(min(n, spec.limits.rows), size, spec.limits)
    rows = max(1, min(spec.limits.rows, spec.limits.cells // columns))
    fast = _fast(n, weight)
    for first in range(0, size, columns):
        block = slice(first, min(size, first + columns))
        weight_block = _operand(weight[block], spec)
        for start in range(0, n, rows):
            here = slice(start, start + rows)
            u = _product(hidden[here], weight_block, spec, fast)
            part = Running(*(x[here] for x in sums))
            spec.tile.fold(u, part, ids[here], None if bias is None else bias[block], first, spec.shape)
    return sums


def _unfold(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    statistics: tuple[Tensor, Tensor, Tensor | None],
    upstream: Upstream,
    spec: _Spec,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return gradients of the rows that learn, the weight and the bias; each block of dW is one product."""
    n, size = hidden.shape[0], weight.shape[0]
    d_rows = torch.zeros(hidden.shape, dtype=spec.wide, device=hidden.device) if needs[0] else None
    d_weight = torch.empty_like(weight) if needs[1] else None
    d_bias = torch.empty_like(bias) if bias is not None and needs[2] else None
    hidden = _operand(hidden, spec)
    columns, fast = _columns(n, size, spec.limits), _fast(n, weight)
    for first in range(0, size, columns):
        block = slice(first, min(size, first + columns))
        weight_block = _operand(weight[block], spec)
        u = _product(hidden, weight_block, spec, fast)
        bias_block = None if bias is None else bias[block]
        d_u = spec.tile.to_dlogits(u, *statistics, upstream, bias_block, first, spec.shape, spec.narrow)
        if d_bias is not None:
            d_bias[block] = d_u.sum(0, dtype=spec.wide).to(d_bias.dtype)
        d_u = _operand(d_u, spec)
        if d_rows is not None:
            _add_product(d_rows, d_u, weight_block, fast)
        if d_weight is not None:
            _write_product(d_weight[block], d_u, hidden, spec, fast)
    return d_rows, d_weight, d_bias


def _operand(x: Tensor, spec: _Spec) -> Tensor:
    """Round to the narrow dtype, and widen again where the device cannot multiply it into a wide product."""
    x = x.to(spec.narrow)
    return x if x.device.type in WIDE_PRODUCTS else x.to(spec.wide)


def _product(a: Tensor, b: Tensor, spec: _Spec, fast: bool) -> Tensor:
    """Return a @ b.T in the wide dtype: rounded to bfloat16 it would cost two digits of every log-prob."""
    if a.dtype != spec.wide:
        return torch.mm(a, b.t(), out_dtype=spec.wide)
    return _strips(a, b, STRIP) if fast else torch.mm(a, b.t())


def _strips(a: Tensor, b: Tensor, strip: int) -> Tensor:
    """Return a @ b.T as a sum over strips of the inner size, so that rounding errors do not add up along all of it."""
    out = None
    for x, y in zip(a.split(strip, 1), b.split(strip, 1), strict=True):
        # oneDNN falls back to plain loops where the second factor has gaps between its rows.
        part = products.matmul_t(x, y if y.t().is_contiguous() else y.contiguous())
        out = part if out is None else out.add_(part)
    return torch.mm(a, b.t()) if out is None else out


def _add_product(out: Tensor, a: Tensor, b: Tensor, fast: bool) -> None:
    """Add a @ b to the wide `out`."""
    if a.dtype != out.dtype:
        torch.addmm(out, a, b, out_dtype=out.dtype, out=out)
    elif fast:
        out.add_(_strips(a, b.t(), LONG_STRIP))
    else:
        torch.addmm(out, a, b, out=out)


def _write_product(out: Tensor, a: Tensor, b: Tensor, spec: _Spec, fast: bool) -> None:
    """Write a.T @ b into `out`, which has the weight's dtype, rounding once."""
    if a.dtype != out.dtype and out.dtype == spec.wide:
        torch.mm(a.t(), b, out_dtype=out.dtype, out=out)
    elif fast:
        out.copy_(_strips(a.t(), b.t(), STRIP))
    elif a.dtype == out.dtype:
        torch.mm(a.t(), b, out=out)
    else:
        out.copy_(torch.mm(a.t(), b))


def _columns(rows: int, size: int, limits: Limits) -> int:
    """Return how many words a tile of so many rows holds: a multiple of 128 where that many fit."""
    columns = min(limits.columns, limits.cells // max(1, rows))
    return max(1, min(size, columns // 128 * 128 or columns))


def _fast(rows: int, weight: Tensor) -> bool:
    large = weight.device.type == "cpu" and rows * weight.numel() >= FAST_WORK
    return large and weight.is_contiguous() and products.library() == "onednn"


def _check_shapes(hidden: Tensor, weight: Tensor, ids: Tensor, bias: Tensor | None, shape: Shape) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise InputError(
            f"hidden states {tuple(hidden.shape)} and head {tuple(weight.shape)} do not fit: (N, H), (V, H)"
        )
    if ids.shape != hidden.shape[:1] or (bias is not None and bias.shape != weight.shape[:1]):
        raise InputError(f"ids {tuple(ids.shape)} must have one entry a hidden state and the bias one a word")
    if ids.dtype != torch.int64 or not (hidden.is_floating_point() and weight.is_floating_point()):
        raise InputError(
            f"ids are {ids.dtype}, hidden states {hidden.dtype} and head {weight.dtype}: int64, float, float are needed"
        )
    if not shape.temperature > 0 or (shape.softcap is not None and not shape.softcap > 0):
        raise InputError(f"temperature {shape.temperature} and soft-cap {shape.softcap} must be greater than 0")
    if not (math.isfinite(shape.scale) and math.isfinite(shape.temperature)):
        raise InputError(f"scale {shape.scale} and temperature {shape.temperature} must be finite")


def _check_values(out: HeadOut, ids: Tensor, size: int) -> None:
    """Raise on what the outputs tell; all of it together is one host synchronisation."""
    in_vocabulary = (ids >= 0) & (ids < size)
    log_partition = out.log_partition_N.detach()
    finite = log_partition.isfinite() & out.entropy_N.detach().isfinite()
    has_words = log_partition > FLOOR / 2
    if bool((in_vocabulary & finite & has_words).all()):
        return
    if not bool(in_vocabulary.all()):
        row = int((~in_vocabulary).nonzero()[0])
        raise InputError(f"row {row}: id {int(ids[row])} is outside the vocabulary of {size} words")
    row = int((~(finite & has_words)).nonzero()[0])
    if bool(finite[row]):
        raise InputError(f"row {row}: every word of the vocabulary is masked; leave one without a bias of -inf")
    raise NotFiniteRowError(row)
