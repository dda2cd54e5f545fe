"""Optimal transport between short stretches of answers, batched and without loops over tokens."""

from __future__ import annotations

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

    by Sinkhorn's iterations on the log scale; the cost leaves out the entropy and is not debiased. As ε falls to 0
    it tends to the transport cost, as ε grows to the mean cost. Two single points give their cost for every ε.

    Args:
        cost_PNM: float (P, N, M), finite where both points exist.
        a_PN: bool (P, N), which points the first measure has; at least one a pair.
        b_PM: bool (P, M), of the second.
        epsilon: > 0, in units of the cost.
        iterations: >= 1.

    Returns:
        float (P,).

    Source: Cuturi, "Sinkhorn distances" (NeurIPS 2013).

    >>> one = torch.ones(1, 1) > 0
    >>> sinkhorn_cost(torch.tensor([[[3.0]]]), one, one, epsilon=1.0)
    tensor([3.])
    """
    both_PNM = a_PN[:, :, None] & b_PM[:, None, :]
    cost_PNM = torch.where(both_PNM, cost_PNM, 0.0)
    log_a_PN, log_b_PM = (_uniform(mask, cost_PNM.dtype) for mask in (a_PN, b_PM))
    scaled_PNM = -cost_PNM / epsilon
    g_PM = torch.zeros_like(log_b_PM)
    f_PN = torch.zeros_like(log_a_PN)
    for _ in range(iterations):
        f_PN = -torch.logsumexp(scaled_PNM + (g_PM + log_b_PM)[:, None, :], dim=2)
        g_PM = -torch.logsumexp(scaled_PNM + (f_PN + log_a_PN)[:, :, None], dim=1)
    plan_PNM = (scaled_PNM + (f_PN + log_a_PN)[:, :, None] + (g_PM + log_b_PM)[:, None, :]).exp()
    return (plan_PNM * cost_PNM).sum((1, 2))


def _uniform(mask_PN: Tensor, dtype: torch.dtype) -> Tensor:
    """Return log-weights of the uniform measure on the points of every row, -inf elsewhere."""
    share_P1 = -mask_PN.sum(1, keepdim=True).to(dtype).log()
    return torch.where(mask_PN, share_P1, -torch.inf)


def nearest_opposite(
    hidden_BTH: Tensor, spans: Spans, group_B: Tensor, right_B: Tensor, wrong_B: Tensor, *,
    scale_B: Tensor, epsilon: float, iterations: int = 50, budget: int = 1 << 22,
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
        budget: most numbers a batch of transports holds at once.

    Returns:
        float (K,), infinite where the group has no opposite answer.

    Source: arXiv 2604.23318 (SHEAR).
    """
    K, H = spans.row_K.numel(), hidden_BTH.shape[2]
    found_K = torch.full((K,), torch.inf, dtype=hidden_BTH.dtype, device=hidden_BTH.device)
    if K == 0:
        return found_K
    width = int(spans.size_K.max())
    within = torch.arange(width, device=hidden_BTH.device)
    pairs = max(1, budget // (width * max(width, 2 * H)))
    group_K = group_B[spans.row_K]
    for group in torch.unique(group_K).tolist():
        sides = (((group_K == group) & side[spans.row_K]).nonzero().squeeze(1) for side in (right_B, wrong_B))
        for pair in torch.cartesian_prod(*sides).reshape(-1, 2).split(pairs):
            one, other = pair.unbind(1)
            (points, mask), (others, other_mask) = (_points(hidden_BTH, spans, k, within) for k in (one, other))
            distance = torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist")
            distance = distance / scale_B[spans.row_K[one], None, None]
            cost = sinkhorn_cost(distance, mask, other_mask, epsilon=epsilon, iterations=iterations)
            found_K = found_K.scatter_reduce(0, one, cost, "amin").scatter_reduce(0, other, cost, "amin")
    return found_K


def _points(hidden_BTH: Tensor, spans: Spans, one_P: Tensor, within: Tensor) -> tuple[Tensor, Tensor]:
    """Return the hidden states of some spans, padded, (P, N, H), and which of them exist, bool (P, N)."""
    mask = within < spans.size_K[one_P, None]
    at = (spans.start_K[one_P, None] + within).clamp(max=hidden_BTH.shape[1] - 1)
    return torch.where(mask[..., None], hidden_BTH[spans.row_K[one_P, None], at], 0.0), mask


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
