"""Statistics of tokens and answers within segments of rows, vectorised.

A segment is a set of rows (`forkpoint.scope.segments`); its tokens are those of its rows where a mask holds. Every
function returns one value a segment, and 0 for a segment without tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from forkpoint.scope import segment_sum


def token_count(mask_BT: Tensor, segment_B: Tensor, dtype: torch.dtype) -> Tensor:
    """Return how many tokens every segment has, (segments,)."""
    return segment_sum(mask_BT.sum(1).to(dtype), segment_B)


def token_mean(value_BT: Tensor, mask_BT: Tensor, segment_B: Tensor) -> Tensor:
    """Return the mean of the tokens of every segment, (segments,).

    >>> token_mean(torch.tensor([[1.0, 2.0], [6.0, 9.0]]), torch.tensor([[True, True], [True, False]]),
    ...            torch.tensor([0, 0]))
    tensor([3.])
    """
    total_S = segment_sum(torch.where(mask_BT, value_BT, 0.0).sum(1), segment_B)
    return total_S / token_count(mask_BT, segment_B, value_BT.dtype).clamp(min=1)


def answer_mean(value_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the mean over the tokens of every answer, (B,); 0 for an answer without tokens."""
    return torch.where(mask_BT, value_BT, 0.0).sum(1) / mask_BT.sum(1).clamp(min=1)


def value_range(value_BT: Tensor, mask_BT: Tensor, segment_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest value among the tokens of every segment, each (segments,).

    >>> value_range(torch.tensor([[1.0, 7.0], [3.0, 2.0]]), torch.tensor([[True, False], [True, True]]),
    ...             torch.tensor([0, 0]))
    (tensor([1.]), tensor([3.]))
    """
    count = int(segment_B.max()) + 1 if segment_B.numel() else 0

    def extreme(fill: float, reduce: str) -> Tensor:
        filled_BT = torch.where(mask_BT, value_BT, fill)
        wide = filled_BT.shape[1] > 0
        row_B = getattr(filled_BT, reduce)(1) if wide else value_BT.new_full(segment_B.shape, fill)
        out_S = value_BT.new_full((count,), fill).scatter_reduce(0, segment_B, row_B, reduce)
        return torch.where(out_S.isinf(), 0.0, out_S)

    return extreme(torch.inf, "amin"), extreme(-torch.inf, "amax")


def standardised(value_BT: Tensor, mask_BT: Tensor, segment_B: Tensor) -> Tensor:
    """Return (x - μ) / σ over the tokens of every segment, 0 outside the mask.

    μ and the unbiased σ (divisor n - 1) are taken over the tokens where `mask_BT`. Where all values of a segment are
    equal, or it has one token, the result is 0: rounding leaves equal values a little off their mean.

    Args:
        value_BT: float (B, T), finite where `mask_BT`.
        mask_BT: bool (B, T).
        segment_B: int64 (B,).

    >>> standardised(torch.tensor([[1.0, 3.0, 5.0]]), torch.ones(1, 3, dtype=torch.bool), torch.tensor([0]))
    tensor([[-1.,  0.,  1.]])
    """
    mean_S = token_mean(value_BT, mask_BT, segment_B)
    centred_BT = torch.where(mask_BT, value_BT - mean_S[segment_B][:, None], 0.0)
    count_S = token_count(mask_BT, segment_B, value_BT.dtype)
    deviation_S = (segment_sum((centred_BT**2).sum(1), segment_B) / (count_S - 1).clamp(min=1)).sqrt()
    low_S, high_S = value_range(value_BT, mask_BT, segment_B)
    scale_S = torch.where((high_S > low_S) & (deviation_S > 0), 1 / deviation_S, 0.0)
    return centred_BT * scale_S[segment_B][:, None]
