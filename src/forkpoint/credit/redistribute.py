"""The token-level advantage of HAPO: a group average over tokens, and its redistribution by entropy and ratio."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from forkpoint.credit._choice import segment_quantile
from forkpoint.credit._reading import entropies
from forkpoint.credit.advantage import differs, group_normalised, judged_rewards, spread
from forkpoint.credit.checks import check_number
from forkpoint.credit.link import Link, State
from forkpoint.credit.statistics import value_range
from forkpoint.rollouts import Credit, Forward, Rollouts
from forkpoint.scope import Batching, Scope, check_scope, segment_sum, segments

LEAST_ENTROPY = 1e-8
"""Entropies below it, in nats, count as it before the logarithm."""
LOG_RATIO_LIMIT = 20.0
"""As in the loss: log-ratios are cut to ± this."""


def entropy_position(
    entropy_BT: Tensor, mask_BT: Tensor, segment_B: Tensor, *, quantile: float = 0.8, released_sign: bool = False
) -> Tensor:
    """Return where the entropy of every token stands around a quantile of its scope, in [-1, 1].

        d = ln H - Q(ln H),   h = d / max d  for d > 0,   d / |min d|  for d <= 0

    Dividing d by a deviation first, as the paper writes it, changes nothing: it cancels.

    Args:
        entropy_BT: float (B, T), finite where `mask_BT`, in nats.
        mask_BT: bool (B, T).
        segment_B: int64 (B,).
        quantile: in [0, 1]; 0.8 puts a fifth of the tokens above 0.
        released_sign: divide by min d with its sign, as the released code does, so that h >= 0 everywhere.

    Returns:
        float (B, T), 0 outside the mask and where a side is empty.

    Source: arXiv 2509.16591 eqs. 5 and 6; the sign that its eqs. 11 and 12 need.

    >>> H = torch.tensor([[0.1, 1.0, 10.0]])
    >>> entropy_position(H, H > 0, torch.tensor([0]), quantile=0.5)
    tensor([[-1.,  0.,  1.]])
    """
    log_BT = torch.where(mask_BT, entropy_BT, 1.0).clamp(min=LEAST_ENTROPY).log()
    middle_S = segment_quantile(log_BT, mask_BT, quantile, segment_B).nan_to_num(0.0)
    apart_BT = torch.where(mask_BT, log_BT - middle_S[segment_B][:, None], 0.0)
    low_S, high_S = value_range(apart_BT, mask_BT, segment_B)
    high_B1 = high_S[segment_B][:, None].clamp(min=LEAST_ENTROPY)
    low_B1 = low_S[segment_B][:, None].clamp(max=-LEAST_ENTROPY)
    return torch.where(apart_BT > 0, apart_BT / high_B1, apart_BT / (low_B1 if released_sign else -low_B1)) + 0.0


def token_group_normalised(
    reward_B: Tensor, keep_BT: Tensor, group_B: Tensor, judged_B: Tensor, *, limit: float = 5.0, eps: float = 1e-6
) -> Tensor:
    """Return the reward of every answer relative to the mean over the tokens of its group.

        A_i = (R_i - μ_tok) / (σ_tok + eps)

    μ_tok and the unbiased σ_tok weigh every answer by its tokens. A group in which any |A| reaches `limit` takes
    GRPO's advantage instead.

    Args:
        reward_B: float (B,).
        keep_BT: bool (B, T), tokens that count.
        group_B: int64 (B,).
        judged_B: bool (B,).
        limit: > 0; infinity never falls back.
        eps: added to the deviation.

    Returns:
        float (B,); 0 for a group of equal rewards, and for an answer without tokens.

    Source: arXiv 2509.16591 eqs. 5 to 13 and its code.

    >>> keep = torch.tensor([[True, True, True], [True, False, False]])
    >>> zero = torch.zeros(2, dtype=torch.int64)
    >>> token_group_normalised(torch.tensor([1.0, 0.0]), keep, zero, zero == 0, eps=0.0)
    tensor([ 0.5000, -1.5000])
    """
    segment_B = torch.unique(group_B, return_inverse=True)[1]
    tokens_B = torch.where(judged_B, keep_BT.sum(1), 0).to(reward_B.dtype)
    counts_B = tokens_B > 0
    reward_B = torch.where(judged_B, reward_B, 0.0)
    count_B = segment_sum(tokens_B, segment_B)[segment_B]
    mean_B = segment_sum(tokens_B * reward_B, segment_B)[segment_B] / count_B.clamp(min=1)
    learns_B = counts_B & differs(reward_B, segment_B, counts_B)
    centred_B = torch.where(learns_B, reward_B - mean_B, 0.0)
    variance_B = segment_sum(tokens_B * centred_B**2, segment_B)[segment_B] / (count_B - 1).clamp(min=1)
    deviation_B = variance_B.sqrt() + eps
    advantage_B = torch.where(learns_B, centred_B / torch.where(deviation_B > 0, deviation_B, 1.0), 0.0)
    far_B = segment_sum((advantage_B.abs() >= limit).to(reward_B.dtype), segment_B)[segment_B] > 0
    return torch.where(far_B, group_normalised(reward_B, group_B, judged_B, eps=eps), advantage_B)


def token_group_advantage(*, limit: float = 5.0, eps: float = 1e-6) -> Link:
    """Link: the group's mean and deviation are taken over its tokens. See `token_group_normalised`.

    For answers of equal length it differs from `group_advantage` in the divisor of the deviation alone.

    Args:
        limit: > 0; a group in which any |A| reaches it takes GRPO's advantage.
        eps: >= 0, added to the deviation.
    """
    if limit != float("inf"):
        check_number("token_group_advantage", "limit", limit, low=0, open_low=True)
    check_number("token_group_advantage", "eps", eps, low=0)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        reward_B, judged_B = judged_rewards(rollouts)
        advantage_B = token_group_normalised(reward_B, credit.keep_BT, rollouts.group_B, judged_B, limit=limit, eps=eps)
        return spread(credit, rollouts, advantage_B, judged_B), state

    return Link(
        name="token_group_advantage",
        stage="advantage",
        arguments={"limit": limit, "eps": eps},
        update=update,
        scope="group",
        needs=frozenset({"reward"}),
    )


def redistribution(
    *, beta: float = 1.0, quantile: float = 0.8, scope: Scope = "mini", released_sign: bool = False
) -> Link:
    """Link: uncertain tokens whose ratio moves gain advantage, certain tokens whose ratio rests lose it.

        A_t ← A_t (1 + beta h_t)     where h_t > 0 and r_t outside Z, or h_t <= 0 and r_t inside Z
        Z = (1 - ε_l / 2, 1 + ε_h / 2)

    h is `entropy_position` of the current policy, r its importance ratio, and 1 - ε_l, 1 + ε_h the bounds that the
    chain has set so far, token by token; an open bound leaves its side of Z open. `beta=0` changes nothing.

    Args:
        beta: in [0, 1], so that no sign turns.
        quantile: in [0, 1], the entropy at which h = 0.
        scope: over which tokens the quantile and the extremes are taken.
        released_sign: see `entropy_position`.
    """
    check_number("redistribution", "beta", beta, low=0, high=1)
    check_number("redistribution", "quantile", quantile, low=0, high=1)
    check_scope(scope)

    def update(
        credit: Credit, rollouts: Rollouts, *, forward: Forward | None, batching: Batching, state: State, **_: Any
    ) -> tuple[Credit, State]:
        assert forward is not None  # noqa: S101 - checked by check_needs
        keep_BT = credit.keep_BT
        segment_B = segments(scope, group_B=rollouts.group_B, batching=batching)
        position_BT = entropy_position(
            entropies(credit, rollouts, forward, "current"), keep_BT, segment_B,
            quantile=quantile, released_sign=released_sign,
        )  # fmt: skip
        moved_BT = torch.where(keep_BT, forward.logp_BT, 0.0) - torch.where(keep_BT, rollouts.logp_BT, 0.0)
        ratio_BT = moved_BT.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
        rests_BT = torch.ones_like(keep_BT)
        if credit.low_BT is not None:
            rests_BT &= ratio_BT > (1 + credit.low_BT) / 2
        if credit.high_BT is not None:
            rests_BT &= ratio_BT < (1 + credit.high_BT) / 2
        moves_BT = torch.where(position_BT > 0, ~rests_BT, rests_BT)
        factor_BT = torch.where(moves_BT, 1 + beta * position_BT, 1.0)
        return dataclasses.replace(credit, advantage_BT=credit.advantage_BT * factor_BT), state

    return Link(
        name="redistribution",
        stage="advantage",
        arguments={"beta": beta, "quantile": quantile, "scope": scope, "released_sign": released_sign},
        update=update,
        when="update",
        scope=scope,
        needs=frozenset({"forward"}),
        adds=False,
    )
