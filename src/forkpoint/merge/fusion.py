"""Which weights of a fine-tuned model are taken over into another one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

EPS = 1e-8
"""Added to both probabilities, so that the logarithm of their ratio is finite."""
SPREAD = 1.5
"""Interquartile ranges above the median that make a change important."""


def row_divergence(other_RC: Tensor, base_RC: Tensor) -> Tensor:
    """Return how differently two matrices weigh the columns of each row.

        k_r = Σ_c p_rc ln(p_rc / q_rc),  p = softmax(other) + 1e-8,  q = softmax(base) + 1e-8,  over the columns

    Args:
        other_RC: any floating dtype.
        base_RC: the same shape.

    Returns:
        float64 (R,) nats, >= 0 up to rounding. First-order terms cancel in the sum, which float32 cannot hold for
        the small changes of a fine-tuned model.

    Source: the fusion method named Arcee Fusion, used by arXiv 2503.04872.

    >>> row_divergence(torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [2.0, 2.0]])).round(decimals=6)
    tensor([0.4621, 0.0000], dtype=torch.float64)
    """
    p_RC = torch.softmax(other_RC.double(), dim=-1).add_(EPS)
    q_RC = torch.softmax(base_RC.double(), dim=-1).add_(EPS)
    return (p_RC * (p_RC / q_RC).log_()).sum(-1)


def importance(other_RC: Tensor, base_RC: Tensor, divergence_R: Tensor) -> Tensor:
    """Return how much every change matters.

        I_rc = |other_rc - base_rc| * k_r

    Args:
        other_RC: weights.
        base_RC: weights of the same shape.
        divergence_R: k of `row_divergence`.

    Returns:
        float64 (R, C).
    """
    return (other_RC.double() - base_RC.double()).abs_().mul_(divergence_R[:, None])


def threshold(values_N: ArrayLike) -> float:
    """Return the importance from which on a change is taken over.

        τ = median(I) + 1.5 (Q3 - Q1)

    The median, and not the third quartile of the usual rule for outliers. Equal values give that value, so equal
    weights give 0.

    Args:
        values_N: (N,) importances, one or more; quantiles are interpolated linearly.

    Source: as `row_divergence`.

    >>> threshold([0.0, 1.0, 2.0, 3.0, 4.0])
    5.0
    """
    low, middle, high = np.quantile(np.asarray(values_N, dtype=np.float64), (0.25, 0.5, 0.75))
    return float(middle + SPREAD * (high - low))


def fuse(other: Tensor, base: Tensor) -> Tensor:
    """Return the base with the important changes of the other taken over, one tensor held whole.

        W = base + M (other - base),  M = [I >= τ]

    Where M is 1 the result is the other's weight bit for bit. A vector counts as one row. Equal tensors come out as
    they are.

    Args:
        other: floating weights.
        base: weights of the same shape and dtype.

    Returns:
        Weights of that shape and dtype.

    Source: as `row_divergence`. `forkpoint.merge.checkpoints` does the same by blocks of rows.

    >>> fuse(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([1.0, 2.0, 3.0])).tolist()
    [1.0, 2.0, 9.0]
    """
    other_RC, base_RC = as_rows(other), as_rows(base)
    values_RC = importance(other_RC, base_RC, row_divergence(other_RC, base_RC))
    return torch.where(values_RC >= threshold(values_RC.flatten()), other_RC, base_RC).reshape(base.shape)


def as_rows(value: Any) -> Any:
    """Return a tensor as the matrix whose rows run over its last dimension; a scalar or vector is one row."""
    return value.reshape(-1, value.shape[-1]) if value.ndim > 1 else value.reshape(1, -1)
