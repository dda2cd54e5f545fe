"""Log-prob and entropy of tokens from logits: the plain reference every faster path is tested against."""

from __future__ import annotations

import torch
from torch import Tensor


def token_logp_entropy(
    logits_NV: Tensor, ids_N: Tensor, *, temperature: float = 1.0, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """Return log-prob of the given ids and entropy of softmax(logits / temperature), both float32.

    With z = logits / temperature and p = softmax(z):

        log p(y) = z_y - log Σ_v exp(z_v)
        H(p)     = log Σ_v exp(z_v) - Σ_v p_v z_v

    computed as H = -Σ_v p_v log p_v with log p = z - log Z, so that a peaked distribution does not lose its
    entropy to cancellation; H is never negative.

    Args:
        logits_NV: (N, V), any float dtype; computed in float32 (float64 stays float64).
        ids_N: int64 (N,).
        temperature: > 0, in units of the logits.
        entropy_gradient: whether the entropy carries gradient (bonuses and regularisers need it).

    Returns:
        (logp_N, entropy_N), entropies in nats.

    Source: entropy of a position as in arXiv 2506.01939 eq. 1.

    >>> logp, entropy = token_logp_entropy(torch.zeros(1, 4), torch.tensor([2]))
    >>> [round(float(x), 4) for x in (logp, entropy)]
    [-1.3863, 1.3863]
    """
    dtype = torch.float64 if logits_NV.dtype == torch.float64 else torch.float32
    z_NV = logits_NV.to(dtype) if temperature == 1.0 else logits_NV.to(dtype) / temperature
    logp_NV = torch.log_softmax(z_NV, dim=-1)
    logp_N = logp_NV.gather(-1, ids_N[:, None]).squeeze(-1)
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        entropy_N = entropy_of(logp_NV if entropy_gradient else logp_NV.detach())
    return logp_N, entropy_N


def entropy_of(logp_NV: Tensor) -> Tensor:
    """Return H = -Σ_v exp(logp_v) logp_v in nats over the last dimension; log-prob -inf contributes 0.

    >>> entropy_of(torch.tensor([0.5, 0.5, 0.0]).log())
    tensor(0.6931)
    """
    # The product 0 * -inf is NaN; masking both factors keeps value and gradient finite.
    safe = logp_NV.masked_fill(logp_NV == -torch.inf, 0.0)
    p = torch.where(logp_NV == -torch.inf, 0.0, safe.exp())
    return -(p * safe).sum(-1)
