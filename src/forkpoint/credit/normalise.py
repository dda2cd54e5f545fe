"""Advantages that normalise over more than one group, or each part of the reward by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from forkpoint.credit.advantage import differs, group_normalised, judged_rewards, spread
from forkpoint.credit.checks import check_number
from forkpoint.credit.link import Link, State
from forkpoint.errors import InputError, did_you_mean
from forkpoint.rollouts import Credit, Rollouts
from forkpoint.scope import segment_sum


def batch_scaled(reward_B: Tensor, group_B: Tensor, judged_B: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Return the reward of every answer relative to its group, in units of the whole batch's deviation.

        A_i = (R_i - μ_g) / (σ_batch + eps)

    μ_g is the mean of the group; the unbiased σ_batch is taken over the rewards of all judged answers.

    Args:
        reward_B: float (B,).
        group_B: int64 (B,).
        judged_B: bool (B,).
        eps: added to the deviation, in units of reward.

    Returns:
        float (B,); 0 for a group of one or of equal rewards.

    Source: arXiv 2508.08221 (group mean, batch deviation); TRL 1.16 `scale_rewards="batch"`.

    >>> j = torch.ones(4, dtype=torch.bool)
    >>> batch_scaled(torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0, 0, 1, 1]), j, eps=0.0)
    tensor([ 1., -1.,  0.,  0.])
    """
    centred_B = group_normalised(reward_B, group_B, judged_B, std=False)
    return _in_deviations(centred_B, torch.where(judged_B, reward_B, 0.0), judged_B, eps)


def _in_deviations(value_B: Tensor, of_B: Tensor, judged_B: Tensor, eps: float) -> Tensor:
    """Return value / (σ + eps), σ the unbiased deviation of `of_B` over what was judged; 0 where it is 0."""
    count = judged_B.sum()
    centred_B = torch.where(judged_B, of_B - of_B.sum() / count.clamp(min=1), 0.0)
    deviation = ((centred_B**2).sum() / (count - 1).clamp(min=1)).sqrt() + eps
    return torch.where(deviation > 0, value_B / torch.where(deviation > 0, deviation, 1.0), 0.0)


def parts_normalised(
    parts: Mapping[str, Tensor],
    group_B: Tensor,
    judged_B: Tensor,
    *,
    weights: Mapping[str, float] | None = None,
    std: bool = True,
    batch: bool = True,
    eps: float = 1e-4,
) -> Tensor:
    """Return the sum of the rewards' parts, each normalised in its group by itself, normalised over the batch.

        s_i = Σ_k w_k (r_ik - μ_gk) / (σ_gk + eps),     A_i = (s_i - mean s) / (std s + eps)

    With one part and `batch=False` it is `group_normalised`.

    Args:
        parts: each float (B,), by name.
        group_B: int64 (B,).
        judged_B: bool (B,).
        weights: w_k by name, 1 for a part not named; None weighs all alike.
        std: divide each part by its group's deviation.
        batch: normalise the sum over all judged answers (unbiased deviation).
        eps: added to every deviation.

    Returns:
        float (B,).

    Source: arXiv 2601.05242; TRL 1.16 `multi_objective_aggregation="normalize_then_sum"`.
    """
    weights = weights or {}
    total_B = torch.zeros_like(next(iter(parts.values())))
    for name, part_B in parts.items():
        total_B = total_B + weights.get(name, 1.0) * group_normalised(part_B, group_B, judged_B, std=std, eps=eps)
    if not batch:
        return total_B
    centred_B = torch.where(judged_B, total_B - total_B.sum() / judged_B.sum().clamp(min=1), 0.0)
    return _in_deviations(centred_B, total_B, judged_B, eps)


def kind_whitened(value_B: Tensor, keep_BT: Tensor, kind_B: Tensor, *, eps: float = 1e-8) -> Tensor:
    """Return one value an answer, whitened over the tokens of all answers of its kind.

        A_i = (R_i - μ_kind) / sqrt(σ²_kind + eps)

    μ and the unbiased σ² are taken over tokens: an answer weighs by its length.

    Args:
        value_B: float (B,), finite where an answer has tokens that count.
        keep_BT: bool (B, T), tokens that count.
        kind_B: int64 (B,).
        eps: added to the variance.

    Returns:
        float (B,); 0 for a kind whose answers all have one value.

    Source: arXiv 2505.03335 (task-relative REINFORCE++) and its code: masked whitening over response tokens.

    >>> keep = torch.tensor([[True, True], [True, False]])
    >>> kind_whitened(torch.tensor([1.0, 0.0]), keep, torch.tensor([0, 0]), eps=0.0)
    tensor([ 0.5774, -1.1547])
    """
    segment_B = torch.unique(kind_B, return_inverse=True)[1]
    tokens_B = keep_BT.sum(1).to(value_B.dtype)
    value_B = torch.where(tokens_B > 0, value_B, 0.0)
    count_B = segment_sum(tokens_B, segment_B)[segment_B]
    mean_B = segment_sum(tokens_B * value_B, segment_B)[segment_B] / count_B.clamp(min=1)
    learns_B = (tokens_B > 0) & differs(value_B, segment_B, tokens_B > 0)
    centred_B = torch.where(learns_B, value_B - mean_B, 0.0)
    variance_B = segment_sum(tokens_B * centred_B**2, segment_B)[segment_B] / (count_B - 1).clamp(min=1)
    return torch.where(learns_B, centred_B / (variance_B + eps).clamp(min=1e-30).sqrt(), 0.0)


def batch_scaled_advantage(*, eps: float = 1e-6) -> Link:
    """Link: the group's mean is the baseline, the batch's deviation the unit. See `batch_scaled`.

    Args:
        eps: > 0, added to the deviation.
    """
    check_number("batch_scaled_advantage", "eps", eps, low=0)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        reward_B, judged_B = judged_rewards(rollouts)
        return spread(credit, rollouts, batch_scaled(reward_B, rollouts.group_B, judged_B, eps=eps), judged_B), state

    return Link(
        name="batch_scaled_advantage",
        stage="advantage",
        arguments={"eps": eps},
        update=update,
        scope="rollout",
        needs=frozenset({"reward"}),
    )


def parts_advantage(
    *, weights: dict[str, float] | None = None, std: bool = True, batch: bool = True, eps: float = 1e-4
) -> Link:
    """Link: every part of the reward is normalised by itself. See `parts_normalised`.

    A batch whose reward has no named parts is treated as one part, its total.

    Args:
        weights: of the parts by name (`answer`, `overlong`, …); a part not named weighs 1.
        std: divide each part by its group's deviation.
        batch: normalise the sum over the rollout batch.
        eps: >= 0, added to every deviation.
    """
    check_number("parts_advantage", "eps", eps, low=0)
    for name, weight in (weights or {}).items():
        check_number("parts_advantage", f"weight of {name!r}", weight)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        reward_B, judged_B = judged_rewards(rollouts)
        parts = {name: part_B.to(reward_B.dtype) for name, part_B in rollouts.reward_parts.items()}
        unknown = [name for name in weights or {} if parts and name not in parts]
        if unknown:
            raise InputError(
                f"parts_advantage weighs {unknown[0]!r}, which is no part of this reward: "
                f"{did_you_mean(unknown[0], parts)}"
            )
        for part_B in parts.values():
            judged_B = judged_B & part_B.isfinite()
        advantage_B = parts_normalised(
            parts or {"reward": reward_B}, rollouts.group_B, judged_B, weights=weights, std=std, batch=batch, eps=eps
        )
        return spread(credit, rollouts, advantage_B, judged_B), state

    return Link(
        name="parts_advantage",
        stage="advantage",
        arguments={"weights": weights, "std": std, "batch": batch, "eps": eps},
        update=update,
        scope="rollout" if batch else "group",
        needs=frozenset({"reward"}),
    )


def kind_advantage(*, eps: float = 1e-8) -> Link:
    """Link: rewards whitened over the tokens of every kind of row. See `kind_whitened`.

    Args:
        eps: >= 0, added to the variance.

    Returns:
        A link that needs `kind`: role and task type of every row, int64 (B,).
    """
    check_number("kind_advantage", "eps", eps, low=0)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        reward_B, judged_B = judged_rewards(rollouts)
        keep_BT = credit.keep_BT & judged_B[:, None]
        advantage_B = kind_whitened(reward_B, keep_BT, rollouts.extra["kind"], eps=eps)
        return dataclasses.replace(spread(credit, rollouts, advantage_B, judged_B), keep_BT=keep_BT), state

    return Link(
        name="kind_advantage",
        stage="advantage",
        arguments={"eps": eps},
        update=update,
        scope="rollout",
        needs=frozenset({"reward", "kind"}),
    )
