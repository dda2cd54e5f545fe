"""Entropy of the nucleus: of the fewest most likely words that have a given mass together, renormalised.

It needs all logits of a row side by side, so a few rows at a time are held, in the forward and again in the backward
pass; rows whose gradient is zero are not run again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from forkpoint.entropy.head import LIMITS, _operand, _product, _Spec
from forkpoint.entropy.tiles import Epilogues, Shape, _logits, fold, to_dlogits
from forkpoint.errors import InputError

MASS = 0.8
"""Of the nucleus in arXiv 2509.25133."""
FIRST_LOOK = 64
"""Words among which the edge of a nucleus is looked for before all of a row are sorted."""


class Edges(NamedTuple):
    """Which words of a row belong to its nucleus, in numbers that survive the rounding of a second product."""

    high_N: Tensor
    """Words above this logit belong to it."""
    low_N: Tensor
    """Words up to this logit do not."""
    share_N: Tensor
    """How much each of the words in between does, which are all equally likely: 1 unless only some of them fit."""


def nucleus_edges(logits_NV: Tensor, mass: float = MASS, *, look: int = FIRST_LOOK) -> Edges:
    """Return the edges of the fewest most likely words whose probabilities add up to a mass, at least one word.

    Args:
        logits_NV: float (N, V); -inf masks a word.
        mass: in (0, 1]; 1 keeps every word.
        look: words that are sorted first; does not change the result.

    >>> nucleus_edges(torch.tensor([[0.5, 0.25, 0.25], [0.9, 0.05, 0.05]]).log(), 0.6).share_N
    tensor([0.5000, 1.0000])
    """
    V = logits_NV.shape[1]
    look = min(look, V)
    log_partition_N1 = logits_NV.logsumexp(-1, keepdim=True)
    top_NK = logits_NV.topk(look, -1).values
    p_NK = (top_NK - log_partition_N1).exp()
    inside_NK = (p_NK.cumsum(-1) - p_NK < mass) & (top_NK > -torch.inf)
    inside_NK[:, 0] = True
    count_N = inside_NK.sum(-1)
    last_N = top_NK.gather(1, count_N[:, None] - 1)[:, 0]
    next_NK = torch.cat([top_NK, torch.full_like(top_NK[:, :1], -torch.inf)], 1)
    next_N = next_NK.gather(1, count_N[:, None])[:, 0]
    middle_N = (last_N + next_N) / 2
    edge_N = torch.where(middle_N < last_N, middle_N, next_N)
    edges = Edges(edge_N, edge_N.clone(), torch.ones_like(edge_N))
    tied = (last_N == next_N) & (last_N > -torch.inf)
    if bool(tied.any()):
        edges = _write(edges, tied, _tied_edges(logits_NV[tied], last_N[tied], count_N[tied]))
    beyond = (count_N == look) & torch.full_like(tied, look < V)
    if bool(beyond.any()):
        edges = _write(edges, beyond, nucleus_edges(logits_NV[beyond], mass, look=V))
    return edges


def nucleus_member(logits_NV: Tensor, edges: Edges) -> Tensor:
    """Return how much every word belongs to the nucleus, (N, V) in [0, 1], without gradient."""
    logits_NV = logits_NV.detach()
    below_NV = torch.where(logits_NV > edges.low_N[:, None], edges.share_N[:, None], 0.0)
    return torch.where(logits_NV > edges.high_N[:, None], 1.0, below_NV)


def nucleus_entropy_of(logits_NV: Tensor, mass: float = MASS) -> Tensor:
    """Return the entropy of the renormalised nucleus of materialised logits, with gradient.

        H = -Σ_{v in K} q_v log q_v,   q_v = exp(z_v) / Σ_{u in K} exp(z_u)
        ∂H/∂z_v = -q_v (log q_v + H) in K, 0 elsewhere

    K the fewest most likely words with the mass; it is held fixed in the gradient. `mass=1` gives the entropy. Of
    equally likely words of which only some fit, each belongs to K in part.

    Args:
        logits_NV: float (N, V).
        mass: in (0, 1].

    Returns:
        float (N,) in nats; 0 where one word has the mass alone.

    Source: arXiv 2509.25133; its released code leaves out the word that crosses the mass.

    >>> nucleus_entropy_of(torch.tensor([[0.5, 0.3, 0.2], [0.9, 0.05, 0.05]]).log(), 0.6)
    tensor([0.6616, 0.0000])
    """
    _check(mass)
    with torch.no_grad():
        member_NV = nucleus_member(logits_NV, nucleus_edges(logits_NV, mass))
    centred_NV, weight_NV, total_N = _weights(logits_NV, member_NV)
    return total_N.log() - (weight_NV * centred_NV).sum(-1) / total_N


def nucleus_entropy(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    *,
    bias_V: Tensor | None = None,
    temperature: float = 1.0,
    scale: float = 1.0,
    softcap: float | None = None,
    mass: float = MASS,
    cells: int | None = None,
) -> Tensor:
    """Return the entropy of the nucleus of the head's distribution, without ever holding (N, V) logits.

    Equal to `nucleus_entropy_of` on logits as in `forkpoint.entropy.head.head_logp_entropy`.

    Args:
        hidden_NH: (N, H), the states that predict.
        weight_VH: (V, H), the lm-head.
        bias_V: (V,) or None; -inf masks a word.
        temperature: > 0.
        scale: factor on the product.
        softcap: > 0 or None.
        mass: in (0, 1].
        cells: most logits held at once, at least one row of them; None for `LIMITS` of the device.

    Returns:
        (N,) in nats, float32 (float64 for float64 input). Gradient flows to hidden states, weight and bias. Rows
        whose gradient is zero cost nothing in the backward pass.

    Raises:
        InputError: the mass is out of range.

    Source: arXiv 2509.25133.
    """
    _check(mass)
    device = hidden_NH.device.type
    narrow = torch.promote_types(hidden_NH.dtype, weight_VH.dtype)
    if torch.is_autocast_enabled(device) and narrow != torch.float64:
        narrow = torch.get_autocast_dtype(device)
    limits = LIMITS.get(device, LIMITS["cpu"])
    if cells is not None:
        limits = limits._replace(cells=max(1, cells))
    wide = torch.promote_types(narrow, torch.float32)
    spec = _Spec(Shape(temperature, scale, softcap), True, limits, narrow, wide, Epilogues(fold, to_dlogits))
    entropy_N: Tensor = _Nucleus.apply(hidden_NH, weight_VH, bias_V, spec, mass)
    return entropy_N


class _Nucleus(torch.autograd.Function):
    """The pair of passes; torch asks for a class here."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, spec: _Spec, mass: float) -> Tensor:
        rows = hidden.shape[0]
        entropy = torch.zeros(rows, dtype=spec.wide, device=hidden.device)
        edges = Edges(entropy.clone(), entropy.clone(), entropy.clone())
        with torch.autocast(hidden.device.type, enabled=False):
            operand = _operand(weight, spec)
            for at in torch.arange(rows, device=hidden.device).split(_rows(weight, spec)):
                z = _logits(_product(_operand(hidden[at], spec), operand, spec, False), bias, spec.shape)
                found = nucleus_edges(z, mass)
                for store, value in zip(edges, found, strict=True):
                    store[at] = value
                centred, weights, total = _weights(z, nucleus_member(z, found))
                entropy[at] = total.log() - (weights * centred).sum(-1) / total
        ctx.save_for_backward(hidden, weight, bias, entropy, *edges)
        ctx.spec = spec
        return entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        hidden, weight, bias, entropy, *edges = ctx.saved_tensors
        spec, (upstream,) = ctx.spec, gradients
        needs = (*ctx.needs_input_grad[:2], bias is not None and ctx.needs_input_grad[2])
        d_hidden, d_weight, d_bias = (
            torch.zeros(x.shape, dtype=spec.wide, device=x.device) if need else None
            for x, need in zip((hidden, weight, bias), needs, strict=True)
        )
        learns = upstream.nonzero().squeeze(1)
        with torch.autocast(hidden.device.type, enabled=False):
            operand = _operand(weight, spec)
            for at in learns.split(_rows(weight, spec)):
                states = _operand(hidden[at], spec)
                z = _logits(_product(states, operand, spec, False), bias, spec.shape)
                centred, weights, total = _weights(z, nucleus_member(z, Edges(*(edge[at] for edge in edges))))
                log_q = centred - total.log()[:, None]
                d_z = -weights / total[:, None] * (log_q + entropy[at][:, None]) * upstream[at][:, None]
                d_u = d_z * (spec.shape.scale / spec.shape.temperature)
                if spec.shape.softcap is not None:
                    d_u *= 1 - (z * (spec.shape.temperature / spec.shape.softcap)).clamp(-1.0, 1.0).square()
                if d_bias is not None:
                    d_bias += d_u.sum(0)
                if d_hidden is not None:
                    d_hidden[at] = d_u @ operand.to(spec.wide)
                if d_weight is not None:
                    torch.addmm(d_weight, d_u.t(), states.to(spec.wide), out=d_weight)
        out = (
            None if gradient is None else gradient.to(x.dtype)
            for gradient, x in zip((d_hidden, d_weight, d_bias), (hidden, weight, bias), strict=True)
        )
        return *out, None, None


def _weights(logits_NV: Tensor, member_NV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return z - max z (0 outside the nucleus), membership times its exponential, and the sum of the latter."""
    top_N1 = logits_NV.detach().amax(-1, keepdim=True)
    centred_NV = torch.where(member_NV > 0, logits_NV - top_N1, 0.0)
    weight_NV = member_NV * centred_NV.exp()
    return centred_NV, weight_NV, weight_NV.sum(-1)


def _tied_edges(logits_NV: Tensor, last_N: Tensor, count_N: Tensor) -> Edges:
    """Return the edges of rows whose last words inside and first words outside are equally likely."""
    last_N1 = last_N[:, None]
    above_NV, below_NV = logits_NV > last_N1, logits_NV < last_N1
    above_N = torch.where(above_NV, logits_NV, torch.inf).amin(-1)
    below_N = torch.where(below_NV, logits_NV, -torch.inf).amax(-1)
    tied_N = (logits_NV == last_N1).sum(-1)
    share_N = (count_N - above_NV.sum(-1)).to(last_N.dtype) / tied_N
    return Edges((last_N + above_N) / 2, (last_N + below_N) / 2, share_N)


def _write(edges: Edges, where: Tensor, some: Edges) -> Edges:
    return Edges(*(whole.masked_scatter(where, part) for whole, part in zip(edges, some, strict=True)))


def _rows(weight: Tensor, spec: _Spec) -> int:
    return max(1, spec.limits.cells // max(1, weight.shape[0]))


def _check(mass: float) -> None:
    if not 0 < mass <= 1:
        raise InputError(f"mass is {mass} and must be in (0, 1]: the share of probability that a nucleus has")
