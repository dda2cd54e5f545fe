"""Signals: what a token's distribution, its neighbours and its advantage say of it, one equation one function.

Every function maps tensors to a tensor of the same shape, carries no state and reads nothing of padding. What needs
the whole distribution of a position takes full log-probs `logp_NV`; everything else takes the log-prob of the sampled
token and the entropy, which every engine has.
"""

from __future__ import annotations

import torch
from torch import Tensor

from forkpoint.errors import InputError
from forkpoint.scope import segment_sum


def _wide(value: Tensor) -> Tensor:
    """Return the value in float32 or wider: recorded values may be bfloat16, whose products lose what counts."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def surprisal(logp_BT: Tensor) -> Tensor:
    """Return the surprisal of every sampled token in nats, -log π(y): its expectation is the entropy.

    >>> surprisal(torch.tensor([0.25]).log())
    tensor([1.3863])
    """
    return -_wide(logp_BT)


def relative_surprisal(logp_BT: Tensor, entropy_BT: Tensor) -> Tensor:
    """Return surprisal in units of its expectation, -log π(y) / H.

    1 is a token as surprising as its position leads to expect, below 1 a likely one, above 1 one of the tail. Where
    the entropy is 0 the sampled token is certain: 0 if it has log-prob 0, infinite otherwise.

    Args:
        logp_BT: float (B, T), nats, <= 0.
        entropy_BT: float (B, T), nats, >= 0, of the same distribution.

    Returns:
        float (B, T), >= 0.

    Source: the idea of arXiv 2606.31575, whose abstract alone could be read; the quotient is ours.

    >>> relative_surprisal(torch.tensor([-1.0, 0.0, -1.0]), torch.tensor([0.5, 0.0, 0.0]))
    tensor([2., 0., inf])
    """
    surprise_BT = surprisal(logp_BT)
    return torch.where(surprise_BT == 0, 0.0, surprise_BT / _wide(entropy_BT).clamp(min=0))


def window_entropy(entropy_BT: Tensor, mask_BT: Tensor, *, width: int = 4) -> Tensor:
    """Return the mean entropy of every token and the ones after it.

        W_t = (1/w) Σ_{j=0}^{w-1} H_{t+j}

    With `width=1` it is the entropy.

    Args:
        entropy_BT: float (B, T), nats.
        mask_BT: bool (B, T), the sampled positions, right-padded.
        width: w >= 1 tokens, the token itself included.

    Returns:
        float (B, T), NaN where the window does not fit into its answer.

    Raises:
        InputError: a width below 1.

    Source: the window of arXiv 2510.08457 (ARES, w = 4).

    >>> window_entropy(torch.tensor([[1.0, 3.0, 5.0]]), torch.ones(1, 3) > 0, width=2)
    tensor([[2., 4., nan]])
    """
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise InputError(f"a window of entropies holds 1 or more tokens, not {width!r}")
    T = entropy_BT.shape[1]
    clean_BT = torch.where(mask_BT, _wide(entropy_BT), 0.0)
    total_BT = clean_BT.clone()
    # Sums of few terms, not differences of a long running sum: those lose digits.
    for ahead in range(1, min(width, T)):
        total_BT[:, :-ahead] += clean_BT[:, ahead:]
    length_B1 = mask_BT.sum(1, keepdim=True)
    fits_BT = torch.arange(T, device=mask_BT.device)[None] + width <= length_B1
    return torch.where(fits_BT, total_BT / width, torch.nan)


def covariance(logp_BT: Tensor, advantage_BT: Tensor, mask_BT: Tensor, segment_B: Tensor) -> Tensor:
    """Return what every token contributes to the covariance of log-prob and advantage.

        c_t = (log π(y_t) - mean log π) (A_t - mean A)

    with both means over the masked tokens of the segment. To first order a step of policy gradient changes the
    entropy by minus its mean, so tokens with large c are the ones that lower the entropy.

    Args:
        logp_BT: float (B, T), of the current policy.
        advantage_BT: float (B, T).
        mask_BT: bool (B, T), tokens that count.
        segment_B: int64 (B,), from `forkpoint.scope.segments`.

    Returns:
        float (B, T), 0 outside the mask.

    Source: arXiv 2505.22617 eq. 10.

    >>> one = torch.tensor([[-1.0, -3.0]]), torch.tensor([[1.0, -1.0]]), torch.ones(1, 2) > 0, torch.tensor([0])
    >>> covariance(*one)
    tensor([[1., 1.]])
    """
    return _centred(logp_BT, mask_BT, segment_B) * _centred(advantage_BT, mask_BT, segment_B)


def _centred(value_BT: Tensor, mask_BT: Tensor, segment_B: Tensor) -> Tensor:
    """Return values minus the mean over the masked tokens of their segment, 0 outside the mask."""
    value_BT = torch.where(mask_BT, _wide(value_BT), 0.0)
    count_B = segment_sum(mask_BT.sum(1), segment_B)[segment_B].clamp(min=1)
    mean_B = segment_sum(value_BT.sum(1), segment_B)[segment_B] / count_B
    return torch.where(mask_BT, value_BT - mean_B[:, None], 0.0)


def gradient_norm(logp_BT: Tensor, collision_BT: Tensor | None = None) -> Tensor:
    """Return the length of the gradient of log π(y) by the logits.

        ‖∇_z log π(y)‖ = ‖e_y - π‖ = sqrt(1 - 2 π_y + Σ_k π_k²)

    Without Σ_k π_k² the function returns its lower bound 1 - π_y, which the true length exceeds by at most a
    factor sqrt(2).

    Args:
        logp_BT: float (B, T), log π(y) in nats.
        collision_BT: float (B, T), Σ_k π_k² of the same distribution, from `collision`; None takes the bound.

    Returns:
        float (B, T) in [0, sqrt(2)].

    Source: the gradient of a softmax; the expectation of its square, 1 - Σ_k π_k², is in arXiv 2509.09265 sec. 3.

    >>> p = torch.tensor([[0.5, 0.25, 0.25]])
    >>> gradient_norm(p[:, 0].log(), collision(p.log())), gradient_norm(p[:, 0].log())
    (tensor([0.6124]), tensor([0.5000]))
    """
    logp_BT = _wide(logp_BT)
    missing_BT = -torch.expm1(logp_BT)
    if collision_BT is None:
        return missing_BT
    # (1 - π)² + Σ_{k≠y} π_k²: every term is >= 0, so nothing cancels where π is close to 1.
    others_BT = (collision_BT - (2 * logp_BT).exp()).clamp(min=0)
    return (missing_BT**2 + others_BT).sqrt()


def collision(logp_NV: Tensor) -> Tensor:
    """Return the collision probability Σ_k π_k² of every position, from log-probs (N, V).

    >>> collision(torch.tensor([[0.5, 0.25, 0.25]]).log())
    tensor([0.3750])
    """
    return (2 * _wide(logp_NV)).exp().sum(-1)


def entropy_change(
    logp_BT: Tensor,
    entropy_BT: Tensor,
    advantage_BT: Tensor,
    sampled_flow_BT: Tensor | None = None,
    *,
    ratio_BT: Tensor | None = None,
) -> Tensor:
    """Return the first-order change of entropy, per unit of step, that learning from every token causes.

        Δ_t = -r A {π_y (log π_y + H) - Σ_k π_k² (log π_k + H)}

    for a softmax over free logits that ascends r A. Without the sum (`sampled_flow_BT`) the function returns the
    one-term estimate -r A π_y (log π_y + H), which can have the wrong sign.

    Args:
        logp_BT: float (B, T), log π(y) in nats.
        entropy_BT: float (B, T), entropy of the same distribution in nats.
        advantage_BT: float (B, T).
        sampled_flow_BT: float (B, T), Σ_k π_k² (log π_k + H) of the same distribution, from `sampled_flow`; None takes
            the one-term estimate.
        ratio_BT: float (B, T), r = π/π_old; None is 1, on policy.

    Returns:
        float (B, T), nats per unit of step; > 0 where the token raises entropy.

    Source: the quantity of arXiv 2605.11491 (OPEFO), derived here; its published prefactor is not known.

    >>> p = torch.tensor([[0.6, 0.3, 0.1]])
    >>> one = torch.ones(1)
    >>> h = -(p * p.log()).sum(-1)
    >>> entropy_change(p[:, 0].log(), h, one, sampled_flow(p.log(), h)), entropy_change(p[:, 1].log(), h, one)
    (tensor([-0.1345]), tensor([0.0918]))
    """
    logp_BT = _wide(logp_BT)
    own_BT = logp_BT.exp() * (logp_BT + entropy_BT)
    change_BT = -advantage_BT * (own_BT if sampled_flow_BT is None else own_BT - sampled_flow_BT)
    return change_BT if ratio_BT is None else change_BT * ratio_BT


def rough_entropy_change(logp_BT: Tensor, old_logp_BT: Tensor, entropy_BT: Tensor, advantage_BT: Tensor) -> Tensor:
    """Return STEER's estimate of how much a token's update changes the entropy.

        Ω_t = (A / π_old(y)) π_y (1 - π_y) (log π_y + H)

    Its sign is opposite to `entropy_change` and it lacks a factor π_y and the sum over actions: use its magnitude
    relative to other tokens, never as a calibrated change.

    Args:
        logp_BT: float (B, T), log π(y) of the current policy in nats.
        old_logp_BT: float (B, T), log π_old(y).
        entropy_BT: float (B, T), nats; the paper's code takes the behaviour policy's.
        advantage_BT: float (B, T).

    Returns:
        float (B, T).

    Source: arXiv 2510.10150 v4; the released code clamps π to [1e-8, 1 - 1e-8], which changes nothing visible.

    >>> half = torch.tensor([0.5]).log()
    >>> rough_entropy_change(half, half, torch.tensor([1.0]), torch.tensor([2.0]))
    tensor([0.3069])
    """
    logp_BT, entropy_BT = _wide(logp_BT), _wide(entropy_BT)
    ratio_BT = (logp_BT - old_logp_BT).exp()
    return advantage_BT * ratio_BT * -torch.expm1(logp_BT) * (logp_BT + entropy_BT)


def sampled_flow(logp_NV: Tensor, entropy_N: Tensor) -> Tensor:
    """Return Σ_k π_k² (log π_k + H) of every position: the part of `entropy_change` that all actions share.

    Args:
        logp_NV: float (N, V), full log-probs; -inf is allowed.
        entropy_N: float (N,), their entropies in nats.

    Returns:
        float (N,).

    Source: see `entropy_change`.
    """
    logp_NV = _wide(logp_NV)
    finite_NV = logp_NV.masked_fill(logp_NV == -torch.inf, 0.0)
    return ((2 * logp_NV).exp() * (finite_NV + entropy_N[:, None])).sum(-1)


def attention_entropy(attention_NS: Tensor, context_N: Tensor) -> Tensor:
    """Return how evenly every token looks back: the entropy of its attention over the largest it could be.

        u_t = -Σ_s a_ts log a_ts / log(n_t)

    0 looks at one position only, 1 at all alike; a context of one token gives 0.

    Args:
        attention_NS: float (N, S), non-negative weights that sum to 1 over the context, 0 beyond it.
        context_N: int64 (N,), n_t >= 1, positions a token can see, itself included.

    Returns:
        float (N,) in [0, 1].

    Source: arXiv 2605.07660; layer and averaging over heads are the caller's choice.

    >>> attention_entropy(torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]), torch.tensor([2, 1]))
    tensor([1., 0.])
    """
    entropy_N = torch.special.entr(_wide(attention_NS)).sum(-1)
    largest_N = context_N.to(entropy_N.dtype).log()
    return entropy_N / largest_N.clamp(min=torch.finfo(entropy_N.dtype).tiny)
