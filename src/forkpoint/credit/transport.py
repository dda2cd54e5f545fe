"""Optimal transport between short stretches of answers, batched and without loops over tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Spans:
    """Overlapping stretches of answers, one entry each."""

    row_K: Tensor
    """int64 (K,), the answer."""
    start_K: Tensor
    """int64 (K,), its first position."""
    size_K: Tensor
    """int64 (K,), its number of tokens, >= 1."""


def spans_of(length_B: Tensor, *, width: int, stride: int) -> Spans:
    """Return the spans of `width` tokens that start every `stride` tokens and cover every answer.

    An answer shorter than the width is one span; the last span of a longer one may be shorter than the width.

    Args:
        length_B: int64 (B,), tokens of every answer; an answer without any has no span.
        width: >= 1 tokens.
        stride: in [1, width] tokens, so that no token is left out.

    Source: arXiv 2604.23318; what it does at the end of an answer is not known.

    >>> found = spans_of(torch.tensor([5, 0, 2]), width=3, stride=2)
    >>> found.row_K, found.start_K, found.size_K
    (tensor([0, 0, 2]), tensor([0, 2, 0]), tensor([3, 3, 2]))
    """
    beyond_B = (length_B - width).clamp(min=0)
    count_B = torch.where(length_B > 0, (beyond_B + stride - 1) // stride + 1, 0)
    row_K = torch.repeat_interleave(torch.arange(length_B.numel(), device=length_B.device), count_B)
    first_B = count_B.cumsum(0) - count_B
    start_K = (torch.arange(row_K.numel(), device=length_B.device) - first_B[row_K]) * stride
    return Spans(row_K=row_K, start_K=start_K, size_K=(length_B[row_K] - start_K).clamp(max=width))


def sinkhorn_cost(cost_PNM: Tensor, a_PN: Tensor, b_PM: Tensor, *, epsilon: float, iterations: int = 50) -> Tensor:
    """Return the cost of the entropic transport plan between pairs of uniform measures.

        W_ε = Σ_nm P_nm C_nm,   P = argmin <P, C> + ε KL(P ‖ a ⊗ b)

    by Sinkhorn's iterations; the cost leaves out the entropy and is not debiased. As ε falls to 0 it tends to the
    transport cost, as ε grows to the mean cost. Two single points give their cost for every ε. The iterations stop
    before their number is reached where one more changes nothing beyond rounding. Where exp(-C/ε) is far above the
    smallest number (in float64 if need be) they work on it, else on logarithms, which takes 25 times as long.

    Args:
        cost_PNM: float (..., N, M), finite where both points exist.
        a_PN: bool (..., N), which points the first measure has; at least one a pair.
        b_PM: bool (..., M), of the second. Leading dimensions of both may be broadcast against those of the cost.
        epsilon: > 0, in units of the cost.
        iterations: >= 1, the most there are.

    Returns:
        float (...).

    Source: Cuturi, "Sinkhorn distances" (NeurIPS 2013).

    >>> one = torch.ones(1, 1) > 0
    >>> sinkhorn_cost(torch.tensor([[[3.0]]]), one, one, epsilon=1.0)
    tensor([3.])
    """
    both_PNM = a_PN[..., :, None] & b_PM[..., None, :]
    cost_PNM = torch.where(both_PNM, cost_PNM, 0.0)
    scaled_PNM = cost_PNM / -epsilon
    shares = (_uniform(mask, cost_PNM.dtype) for mask in (a_PN, b_PM))
    lowest = float(scaled_PNM.min()) if scaled_PNM.numel() else 0.0
    # u and v are at most exp(max C/ε), and their product with it must not underflow.
    wide = [x for x in (cost_PNM.dtype, torch.float64) if lowest > 0.45 * math.log(torch.finfo(x).tiny)]
    plan = _scaled_plan if wide else _logarithmic_plan
    given = (x.to(wide[0] if wide else cost_PNM.dtype) for x in (scaled_PNM, *shares))
    return (plan(*given, iterations=iterations).to(cost_PNM.dtype) * cost_PNM).sum((-2, -1))


def _scaled_plan(scaled_PNM: Tensor, a_PN: Tensor, b_PM: Tensor, *, iterations: int) -> Tensor:
    """Return the plan from exp(-C/ε): u and v scale its rows and columns in turn."""
    kernel_PNM = scaled_PNM.exp()
    enough, least = 4 * torch.finfo(kernel_PNM.dtype).eps, torch.finfo(kernel_PNM.dtype).tiny
    v_PM = b_PM.expand(*kernel_PNM.shape[:-2], kernel_PNM.shape[-1])
    for _ in range(iterations):
        before_PM = v_PM
        # A product and a sum take a third of the time of torch's batched matrix-vector product. The bound is for
        # measures without a point.
        u_PN = a_PN / (kernel_PNM * v_PM[..., None, :]).sum(-1).clamp(min=least)
        v_PM = b_PM / (kernel_PNM * u_PN[..., :, None]).sum(-2).clamp(min=least)
        if ((v_PM - before_PM).abs() <= enough * v_PM).all():
            break
    return kernel_PNM.mul_(u_PN[..., :, None]).mul_(v_PM[..., None, :])


def _logarithmic_plan(scaled_PNM: Tensor, a_PN: Tensor, b_PM: Tensor, *, iterations: int) -> Tensor:
    """Return the same plan by sums of exponentials that cannot underflow."""
    log_a_PN, log_b_PM = a_PN.log(), b_PM.log()
    g_PM = torch.zeros_like(scaled_PNM[..., 0, :])
    for _ in range(iterations):
        f_PN = -torch.logsumexp(scaled_PNM + (g_PM + log_b_PM)[..., None, :], dim=-1)
        g_PM = -torch.logsumexp(scaled_PNM + (f_PN + log_a_PN)[..., :, None], dim=-2)
    return (scaled_PNM + (f_PN + log_a_PN)[..., :, None] + (g_PM + log_b_PM)[..., None, :]).exp()


def _uniform(mask_PN: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weights of the uniform measure on the points of every row, 0 elsewhere."""
    return mask_PN / mask_PN.sum(-1, keepdim=True).clamp(min=1).to(dtype)


def nearest_opposite(
    hidden_BTH: Tensor, spans: Spans, group_B: Tensor, right_B: Tensor, wrong_B: Tensor, *,
    scale_B: Tensor, epsilon: float, iterations: int = 50, budget: int = 1 << 19,
) -> Tensor:  # fmt: skip
    """Return how far every span lies from the nearest span of an answer of the other outcome in its group.

        d_k = min_{o opposite} W_ε(h_k, h_o) / scale

    between the hidden states of their tokens under the Euclidean distance.

    Args:
        hidden_BTH: float (B, T, H).
        spans: from `spans_of`.
        group_B: int64 (B,).
        right_B: bool (B,).
        wrong_B: bool (B,); an answer that is neither takes no part.
        scale_B: float (B,), > 0, equal in a group; distances are taken in its units.
        epsilon: > 0, in the same units.
        iterations: of Sinkhorn.
        budget: how many numbers a batch of transports holds at once, more only where one span against one answer
            does. The default stays in a processor's cache.

    Returns:
        float (K,), infinite where the group has no opposite answer.

    Source: arXiv 2604.23318 (SHEAR).
    """
    B, dtype = hidden_BTH.shape[0], hidden_BTH.dtype
    if spans.row_K.numel() == 0:
        return hidden_BTH.new_zeros(0)
    grid = _grid(hidden_BTH, spans)
    found_BI = torch.full((B, grid.starts), torch.inf, dtype=dtype, device=hidden_BTH.device)
    for group in torch.unique(group_B[spans.row_K]).tolist():
        one_B, other_B = ((group_B == group) & side & grid.inside_BIN[:, 0, 0] for side in (right_B, wrong_B))
        pairs = torch.cartesian_prod(one_B.nonzero().squeeze(1), other_B.nonzero().squeeze(1)).reshape(-1, 2)
        # One distance a pair of tokens: overlapping spans share it.
        for pair in pairs.split(max(1, budget // grid.length**2)):
            one_Q, other_Q = pair.unbind(1)
            distance_QTT = distances(grid.hidden_BTH[one_Q], grid.hidden_BTH[other_Q]) / scale_B[one_Q, None, None]
            cost_QII = _costs(distance_QTT, grid, one_Q, other_Q, epsilon, iterations, budget)
            for row_Q, least_QI in ((one_Q, cost_QII.amin(2)), (other_Q, cost_QII.amin(1))):
                found_BI = found_BI.scatter_reduce(0, row_Q[:, None].expand_as(least_QI), least_QI, "amin")
    return found_BI[spans.row_K, torch.div(spans.start_K, grid.stride, rounding_mode="floor")]


def distances(one_QNH: Tensor, other_QMH: Tensor) -> Tensor:
    """Return the Euclidean distances between the points of every pair of sets, (Q, N, M).

    Of float32 by products in float64, which takes a fifth of the time of differences in float32 and is nearer the
    truth; equal points are then up to 1e-7 of their length apart. Of float64 by differences.

    >>> distances(torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[3.0, 4.0], [0.0, 1.0]]]))
    tensor([[[5., 1.]]])
    """
    if one_QNH.dtype == torch.float64:
        return torch.cdist(one_QNH, other_QMH, compute_mode="donot_use_mm_for_euclid_dist")
    one, other = one_QNH.double(), other_QMH.double()
    squares = one.square().sum(2)[:, :, None] + other.square().sum(2)[:, None, :]
    return torch.baddbmm(squares, one, other.transpose(1, 2), alpha=-2).clamp_(min=0).sqrt_().to(one_QNH.dtype)


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """Spans as windows of padded answers: I starts, `stride` apart, of N tokens."""

    hidden_BTH: Tensor
    inside_BIN: Tensor
    stride: int

    @property
    def starts(self) -> int:
        return int(self.inside_BIN.shape[1])

    @property
    def length(self) -> int:
        return int(self.hidden_BTH.shape[1])


def _grid(hidden_BTH: Tensor, spans: Spans) -> _Grid:
    B, T, H = hidden_BTH.shape
    width = int(spans.size_K.max())
    later_K = spans.start_K[spans.start_K > 0]
    stride = int(later_K.min()) if later_K.numel() else width
    place_K = torch.div(spans.start_K, stride, rounding_mode="floor")
    starts = int(place_K.max()) + 1
    inside_BIN = torch.zeros(B, starts, width, dtype=torch.bool, device=hidden_BTH.device)
    inside_BIN[spans.row_K, place_K] = torch.arange(width, device=hidden_BTH.device) < spans.size_K[:, None]
    length_B = hidden_BTH.new_zeros(B, dtype=torch.int64)
    length_B = length_B.scatter_reduce(0, spans.row_K, spans.start_K + spans.size_K, "amax")
    length = (starts - 1) * stride + width
    padded_BTH = hidden_BTH.new_zeros(B, length, H)
    padded_BTH[:, : min(T, length)] = hidden_BTH[:, :length]
    known_BT = torch.arange(length, device=hidden_BTH.device) < length_B[:, None]
    return _Grid(hidden_BTH=torch.where(known_BT[..., None], padded_BTH, 0.0), inside_BIN=inside_BIN, stride=stride)


def _costs(
    distance_QTT: Tensor, grid: _Grid, one_Q: Tensor, other_Q: Tensor, epsilon: float, iterations: int, budget: int
) -> Tensor:
    """Return the transport cost of every span of one answer to every span of the other, (Q, I, I)."""
    width = grid.inside_BIN.shape[2]
    window_QIINM = distance_QTT.unfold(1, width, grid.stride).unfold(2, width, grid.stride)
    a_QI1N, b_Q1IM = grid.inside_BIN[one_Q][:, :, None], grid.inside_BIN[other_Q][:, None]
    step = max(1, budget // max(1, window_QIINM[:, :1].numel()))
    parts = [
        sinkhorn_cost(
            window_QIINM[:, i : i + step], a_QI1N[:, i : i + step], b_Q1IM, epsilon=epsilon, iterations=iterations
        )
        for i in range(0, grid.starts, step)
    ]
    exist_QII = a_QI1N[..., 0] & b_Q1IM[..., 0]
    return torch.where(exist_QII, torch.cat(parts, 1), torch.inf)


def largest_over_spans(value_K: Tensor, spans: Spans, shape: torch.Size) -> Tensor:
    """Return, for every token, the largest value of the spans that hold it, (B, T); 0 where none does.

    >>> spans = Spans(row_K=torch.tensor([0, 0]), start_K=torch.tensor([0, 1]), size_K=torch.tensor([2, 1]))
    >>> largest_over_spans(torch.tensor([1.0, 3.0]), spans, torch.Size((1, 4)))
    tensor([[1., 3., 0., 0.]])
    """
    out = value_K.new_zeros(shape).reshape(-1)
    if value_K.numel() == 0:
        return out.reshape(shape)
    within = torch.arange(int(spans.size_K.max()), device=value_K.device)
    inside = within < spans.size_K[:, None]
    at = (spans.row_K * shape[1] + spans.start_K)[:, None] + within
    value = value_K[:, None].expand_as(inside)[inside]
    return out.scatter_reduce(0, at[inside], value, "amax", include_self=False).reshape(shape)
