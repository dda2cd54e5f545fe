"""The covariance of log-prob and advantage, which drives entropy down, and two ways to hold its largest tokens."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from forkpoint.credit._choice import draw, weighted
from forkpoint.credit.checks import check_number
from forkpoint.credit.link import Link, State
from forkpoint.credit.statistics import token_mean
from forkpoint.errors import InputError
from forkpoint.rollouts import Credit, Forward, Penalty, Rollouts
from forkpoint.scope import Batching, Scope, check_scope, segment_sum, segments, top_count


def token_covariance(logp_BT: Tensor, advantage_BT: Tensor, mask_BT: Tensor, segment_B: Tensor) -> Tensor:
    """Return every token's part of the covariance of log-prob and advantage over its segment.

        Cov_t = (log π_t - mean log π) (A_t - mean A)

    Args:
        logp_BT: float (B, T), in nats.
        advantage_BT: float (B, T).
        mask_BT: bool (B, T), tokens that count.
        segment_B: int64 (B,).

    Returns:
        float (B, T), 0 outside the mask.

    Source: arXiv 2505.22617 eqs. 10 to 14.

    >>> x = torch.tensor([[1.0, 2.0, 6.0]])
    >>> token_covariance(x, x, x > 0, torch.tensor([0]))
    tensor([[4., 1., 9.]])
    """
    parts = []
    for value_BT in (logp_BT, advantage_BT):
        known_BT = torch.where(mask_BT, value_BT, 0.0).to(advantage_BT.dtype)
        parts.append(known_BT - token_mean(known_BT, mask_BT, segment_B)[segment_B][:, None])
    return torch.where(mask_BT, parts[0] * parts[1], 0.0)


def clip_cov(*, share: float = 2e-4, low: float = 1.0, high: float = 5.0, scope: Scope = "mini") -> Link:
    """Link: a few tokens of high covariance, drawn at random, do not learn.

        w_t = 0 for max(1, floor(share N)) tokens drawn from {t: low < Cov_t < high, r_t not clipped}

    They stay in the denominator. Without any candidate nothing changes; `share=0` changes nothing.

    Args:
        share: in [0, 1], of the N tokens of the scope.
        low: smallest covariance of a candidate, in nats times advantage.
        high: largest, above `low`.
        scope: over which tokens means and share are taken; released code takes the micro-batch.

    Source: arXiv 2505.22617 eqs. 10 to 14, Clip-Cov.
    """
    check_number("clip_cov", "share", share, low=0, high=1)
    check_scope(scope)
    if not low < high:
        raise InputError(f"clip_cov needs low < high, got low={low}, high={high}")

    def update(
        credit: Credit,
        rollouts: Rollouts,
        *,
        forward: Forward | None,
        batching: Batching,
        state: State,
        rng: int,
        **_: Any,
    ) -> tuple[Credit, State]:
        assert forward is not None  # noqa: S101 - checked by check_needs
        if share == 0:
            return credit, state
        segment_B = segments(scope, group_B=rollouts.group_B, batching=batching)
        cov_BT = token_covariance(forward.logp_BT, credit.advantage_BT, credit.keep_BT, segment_B)
        among_BT = credit.keep_BT & (cov_BT > low) & (cov_BT < high) & ~_clipped(credit, rollouts, forward)
        count_S = _count(share, credit.keep_BT, segment_B)
        chosen_BT = top_count(torch.zeros_like(cov_BT), among_BT, count_S, segment_B, draw(rollouts, rng))
        return weighted(credit, (~chosen_BT).to(credit.weight_BT.dtype)), state

    return _link("clip_cov", "weight", {"share": share, "low": low, "high": high}, scope, update, adds=False)


def kl_cov(*, share: float = 2e-4, coefficient: float = 1.0, scope: Scope = "mini") -> Link:
    """Link: the tokens of the highest covariance are held near the policy that sampled them.

        L_t += coefficient |log π - log π_old|   for the max(1, floor(share N)) tokens of the highest Cov_t

    `coefficient=0` and `share=0` change nothing. The method has no ratio clip: use no `clip` with it.

    Args:
        share: in [0, 1], of the N tokens of the scope.
        coefficient: >= 0, in loss per nat.
        scope: over which tokens means and share are taken; released code takes the micro-batch.

    Source: arXiv 2505.22617 eqs. 10 to 14, KL-Cov; its code takes |log π - log π_old| for the KL.
    """
    check_number("kl_cov", "share", share, low=0, high=1)
    check_number("kl_cov", "coefficient", coefficient, low=0)
    check_scope(scope)

    def update(
        credit: Credit, rollouts: Rollouts, *, forward: Forward | None, batching: Batching, state: State, **_: Any
    ) -> tuple[Credit, State]:
        assert forward is not None  # noqa: S101 - checked by check_needs
        if share == 0 or coefficient == 0:
            return credit, state
        segment_B = segments(scope, group_B=rollouts.group_B, batching=batching)
        cov_BT = token_covariance(forward.logp_BT, credit.advantage_BT, credit.keep_BT, segment_B)
        count_S = _count(share, credit.keep_BT, segment_B)
        chosen_BT = top_count(cov_BT, credit.keep_BT, count_S, segment_B, draw(rollouts, 0))
        penalty = Penalty(
            coefficient_BT=coefficient * chosen_BT.to(credit.advantage_BT.dtype),
            target_logp_BT=rollouts.logp_BT,
            form="abs",
        )
        return dataclasses.replace(credit, penalties=(*credit.penalties, penalty)), state

    return _link("kl_cov", "penalty", {"share": share, "coefficient": coefficient}, scope, update, adds=True)


def _clipped(credit: Credit, rollouts: Rollouts, forward: Forward) -> Tensor:
    """Return the tokens whose ratio lies beyond the bound that matters for the sign of their advantage."""
    counts_BT = credit.keep_BT
    log_BT = torch.where(counts_BT, forward.logp_BT, 0.0) - torch.where(counts_BT, rollouts.logp_BT, 0.0)
    ratio_BT, out_BT = log_BT.exp(), torch.zeros_like(counts_BT)
    if credit.high_BT is not None:
        out_BT |= (credit.advantage_BT > 0) & (ratio_BT > credit.high_BT)
    if credit.low_BT is not None:
        out_BT |= (credit.advantage_BT < 0) & (ratio_BT < credit.low_BT)
    return out_BT


def _count(share: float, mask_BT: Tensor, segment_B: Tensor) -> Tensor:
    """Return max(1, floor(share N)) of every segment, robust to the rounding of decimal shares."""
    size_S = segment_sum(mask_BT.sum(1), segment_B)
    return (share * size_S.double() + 1e-9).floor().to(torch.int64).clamp(min=1)


def _link(name: str, stage: Any, arguments: dict[str, Any], scope: Scope, update: Any, *, adds: bool) -> Link:
    return Link(
        name=name,
        stage=stage,
        arguments={**arguments, "scope": scope},
        update=update,
        when="update",
        scope=scope,
        needs=frozenset({"forward", "reward"}),
        adds=adds,
    )
