"""The entropy head: hidden states to log-prob, entropy and log-partition, without ever holding (N, V) logits.

The forward pass folds tiles of logits into running sums. The backward pass looks at the gradient that arrives and
drops every row where it is zero, whatever made it zero (selection, clip, zero advantage, padding): it is exact for
every method and knows none of them. With share the fraction of rows that learn, it costs (2 + 6 share) N H V
floating-point operations in place of 8 N H V, and one gradient of the weight in the weight's own dtype.

This is the specification in plain torch operations. It has been run on CPU only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from forkpoint.errors import InputError

TILE_CELLS = 1 << 24
"""Logits held at once: 64 MiB in float32."""


class HeadOut(NamedTuple):
    """What the head says of N tokens, all float32 (float64 for float64 input) of shape (N,)."""

    logp_N: Tensor
    """Log-prob of the given ids."""
    entropy_N: Tensor
    """Entropy in nats."""
    log_partition_N: Tensor
    """log Σ_v exp(z_v)."""


class _Spec(NamedTuple):
    """How a product of hidden state and weight becomes a logit: z = cap(scale * (h W^T + b)) / temperature."""

    temperature: float
    scale: float
    softcap: float | None
    entropy_gradient: bool
    tile_cells: int


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
    tile_cells: int = TILE_CELLS,
) -> HeadOut:
    """Return log-prob of the given ids, entropy and log-partition of the head's distribution.

    With z = c tanh(u / c) / T, u = scale (h W^T + b) (no tanh without a soft-cap c) and p = softmax(z):

        log p(y) = z_y - log Z        H = log Z - Σ_v p_v z_v        log Z = log Σ_v exp(z_v)

    Equal to `forkpoint.entropy.token.token_logp_entropy` on materialised logits.

    Args:
        hidden_NH: (N, H), the states that predict the ids.
        weight_VH: (V, H), the lm-head; frozen, tied or neither.
        ids_N: int64 (N,), in [0, V).
        bias_V: (V,) or None; -inf masks a word of the vocabulary.
        temperature: T > 0.
        scale: factor on the product (Cohere's `logit_scale`, 1 / Granite's `logits_scaling`).
        softcap: c > 0 (Gemma) or None.
        entropy_gradient: whether the entropy carries gradient.
        tile_cells: most logits held at once.

    Returns:
        `HeadOut`. Gradient flows to hidden states, weight and bias through log-prob and log-partition, and through
        the entropy when asked for. Rows whose gradient is zero cost nothing in the backward pass.

    Raises:
        InputError: shapes that do not fit together, an id outside the vocabulary, or a number out of range.

    Source: arXiv 2506.01939 eq. 1 for the entropy; the running sums are those of an online softmax
    (arXiv 1805.02867).

    >>> out = head_logp_entropy(torch.zeros(1, 2), torch.zeros(4, 2), torch.tensor([1]))
    >>> [round(float(x), 4) for x in out]
    [-1.3863, 1.3863, 1.3863]
    """
    _check(hidden_NH, weight_VH, ids_N, bias_V, temperature, softcap)
    spec = _Spec(temperature, scale, softcap, entropy_gradient, max(1, tile_cells))
    logp_N, entropy_N, log_partition_N = _Head.apply(hidden_NH, weight_VH, bias_V, ids_N, spec)
    return HeadOut(logp_N, entropy_N if entropy_gradient else entropy_N.detach(), log_partition_N)


class _Head(torch.autograd.Function):
    """The pair of passes; torch asks for a class here."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, spec: _Spec) -> Any:
        top, total, centred, target = _fold(hidden, weight, bias, ids, spec, guard=False)
        if bool(centred.isnan().any()):
            # 0 * -inf, from masked words: only then is the guarded, slower pass taken.
            top, total, centred, target = _fold(hidden, weight, bias, ids, spec, guard=True)
        log_partition = top + total.log()
        entropy = total.log() - centred / total
        ctx.save_for_backward(hidden, weight, bias, ids, log_partition, entropy)
        ctx.spec = spec
        return target - log_partition, entropy, log_partition

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        hidden, weight, bias, ids, log_partition, entropy = ctx.saved_tensors
        spec: _Spec = ctx.spec
        g_logp, g_entropy, g_log_partition = gradients
        learns = (g_logp != 0) | (g_log_partition != 0)
        if spec.entropy_gradient:
            learns = learns | (g_entropy != 0)
        rows = learns.nonzero().squeeze(1)
        needs = ctx.needs_input_grad
        d_hidden = torch.zeros_like(hidden) if needs[0] else None
        d_weight = torch.zeros_like(weight) if needs[1] and not rows.numel() else None
        d_bias = torch.zeros_like(bias) if bias is not None and needs[2] else None
        if rows.numel():
            coefficients = (g_logp[rows], g_entropy[rows] if spec.entropy_gradient else None, g_log_partition[rows])
            picked = (hidden[rows], ids[rows], log_partition[rows], entropy[rows])
            d_rows, d_weight = _unfold(picked, weight, bias, spec, coefficients, needs, d_bias)
            if d_hidden is not None and d_rows is not None:
                d_hidden[rows] = d_rows.to(d_hidden.dtype)
        return d_hidden, d_weight, d_bias, None, None


def _fold(hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, spec: _Spec, *, guard: bool) -> Any:
    """Return per row: max z, Σ exp(z - max), Σ exp(z - max) (z - max), and the target's z."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    n, size = hidden.shape[0], weight.shape[0]
    top = torch.full((n,), -torch.inf, dtype=wide, device=hidden.device)
    total, centred, target = torch.zeros_like(top), torch.zeros_like(top), torch.zeros_like(top)
    columns = max(1, min(size, spec.tile_cells // max(1, min(n, 2048))))
    for first in range(0, size, columns):
        last = min(size, first + columns)
        rows = max(1, spec.tile_cells // (last - first))
        for a in range(0, n, rows):
            here = slice(a, min(n, a + rows))
            z, _ = _logits(hidden[here], weight[first:last], bias, slice(first, last), spec)
            inside = (ids[here] >= first) & (ids[here] < last)
            at = (ids[here] - first).clamp(0, last - first - 1)
            target[here] = torch.where(inside, z.gather(1, at[:, None]).squeeze(1), target[here])
            new_top = torch.maximum(top[here], z.amax(1))
            # A row whose words are all masked so far has no maximum yet; any finite one will do.
            z.sub_(new_top.masked_fill(new_top == -torch.inf, 0.0)[:, None])
            if guard:
                z.clamp_(min=-1e4)
            # Moving the maximum by d multiplies both sums by exp(-d) and shifts the centred one by -d total.
            shift = torch.where(total[here] > 0, top[here] - new_top, 0.0)
            decay = shift.exp()
            weights = z.exp()
            centred[here] = decay * (centred[here] + shift * total[here])
            total[here] = decay * total[here] + weights.sum(1)
            centred[here] += weights.mul_(z).sum(1)
            top[here] = new_top
    return top, total, centred, target


def _unfold(
    picked: tuple[Tensor, Tensor, Tensor, Tensor],
    weight: Tensor,
    bias: Tensor | None,
    spec: _Spec,
    coefficients: tuple[Tensor, Tensor | None, Tensor],
    needs: tuple[bool, ...],
    d_bias: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    """Return gradients of the picked rows and of the weight: vocabulary outermost, each block of dW one product.

    dL/dz_v = a 1[v = y] + p_v (c - a - b (log p_v + H)) for upstream gradients a, b, c of log p(y), H and log Z.
    """
    hidden, ids, log_partition, entropy = picked
    a, b, c = coefficients
    wide = torch.promote_types(hidden.dtype, torch.float32)
    size = weight.shape[0]
    d_rows = torch.zeros(hidden.shape, dtype=wide, device=hidden.device) if needs[0] else None
    d_weight = torch.empty_like(weight) if needs[1] else None
    columns = max(1, min(size, spec.tile_cells // hidden.shape[0]))
    for first in range(0, size, columns):
        last = min(size, first + columns)
        z, slope = _logits(hidden, weight[first:last], bias, slice(first, last), spec)
        log_p = z.sub_(log_partition[:, None])
        p = log_p.exp()
        if b is None:
            d_z = p.mul_((c - a)[:, None])
        else:
            inner = log_p.clamp_(min=-1e4).add_(entropy[:, None]).mul_(b[:, None])
            d_z = p.mul_(inner.neg_().add_((c - a)[:, None]))
        inside = (ids >= first) & (ids < last)
        d_z[inside.nonzero().squeeze(1), (ids - first)[inside]] += a[inside]
        if slope is not None:
            d_z.mul_(slope)
        d_z.mul_(spec.scale / spec.temperature)
        if d_bias is not None:
            d_bias[first:last] = d_z.sum(0).to(d_bias.dtype)
        d_z = d_z.to(weight.dtype)
        if d_rows is not None:
            d_rows += torch.mm(d_z, weight[first:last])
        if d_weight is not None:
            torch.mm(d_z.t(), hidden.to(weight.dtype), out=d_weight[first:last])
    return d_rows, d_weight


def _logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, columns: slice, spec: _Spec
) -> tuple[Tensor, Tensor | None]:
    """Return a tile of logits in float32 or wider, and the slope of the soft-cap where there is one."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    # Products of bfloat16 rounded to bfloat16 would cost two digits of every log-prob; the tile is float32.
    z = torch.mm(hidden.to(wide), weight.to(wide).t())
    if bias is not None:
        z.add_(bias[columns].to(wide))
    if spec.scale != 1.0:
        z.mul_(spec.scale)
    slope = None
    if spec.softcap is not None:
        z.div_(spec.softcap).tanh_()
        slope = 1 - z * z
        z.mul_(spec.softcap)
    if spec.temperature != 1.0:
        z.div_(spec.temperature)
    return z, slope


def _check(
    hidden: Tensor, weight: Tensor, ids: Tensor, bias: Tensor | None, temperature: float, softcap: float | None
) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise InputError(
            f"hidden states {tuple(hidden.shape)} and head {tuple(weight.shape)} do not fit: (N, H), (V, H)"
        )
    if ids.shape != hidden.shape[:1] or (bias is not None and bias.shape != weight.shape[:1]):
        raise InputError(f"ids {tuple(ids.shape)} must have one entry a hidden state and the bias one a word")
    if not temperature > 0 or (softcap is not None and not softcap > 0):
        raise InputError(f"temperature {temperature} and soft-cap {softcap} must be greater than 0")
    if ids.numel() and not bool(((ids >= 0) & (ids < weight.shape[0])).all()):
        worst = int(ids[(ids < 0) | (ids >= weight.shape[0])][0])
        raise InputError(f"id {worst} is outside the vocabulary of {weight.shape[0]} words")
