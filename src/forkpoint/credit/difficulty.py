"""Advantages that depend on how hard a problem is for the policy, and on how sure an answer was."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor

from forkpoint.credit._choice import draw
from forkpoint.credit._reading import entropies, pass_rate
from forkpoint.credit.advantage import differs, group_normalised, judged_rewards, spread
from forkpoint.credit.checks import check_choice, check_number
from forkpoint.credit.link import Link, State
from forkpoint.credit.statistics import answer_mean
from forkpoint.errors import InputError
from forkpoint.rollouts import Credit, Rollouts
from forkpoint.scope import segment_sum

METRICS = ("entropy", "length")


def mastery_weighted(reward_B: Tensor, rate_B: Tensor, group_B: Tensor, judged_B: Tensor) -> Tensor:
    """Return the advantage that lets a problem count as much as a half-solved one once most answers are right.

        A_i = (R_i - μ_g) / (σ_g s(p)),   s(p) = 1 for p <= 1/2,  2 sqrt(p (1 - p)) above

    p is the group's share of right answers, σ_g the deviation of the population. The weight a problem carries in
    all, with rewards 0 / 1, is sqrt(p (1 - p)) up to p = 1/2 and 1/2 from there on. A lone failure among n answers
    has A = -n / 2.

    Args:
        reward_B: float (B,).
        rate_B: float (B,), p of every answer's group.
        group_B: int64 (B,).
        judged_B: bool (B,).

    Returns:
        float (B,); 0 for a group of equal rewards, so also where p = 1.

    Source: arXiv 2604.16972.

    >>> group, judged = torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.bool)
    >>> mastery_weighted(torch.tensor([1.0, 1, 1, 0]), torch.full((4,), 0.75), group, judged)
    tensor([ 0.6667,  0.6667,  0.6667, -2.0000])
    """
    plain_B = group_normalised(reward_B, group_B, judged_B, eps=0.0, correction=0)
    scale_B = torch.where(rate_B > 0.5, 2 * (rate_B * (1 - rate_B)).clamp(min=0).sqrt(), 1.0)
    # p = 1 with unequal rewards (a length punishment among right answers) has no weight to give.
    return torch.where(scale_B > 0, plain_B / torch.where(scale_B > 0, scale_B, 1.0), 0.0)


def mastery_advantage() -> Link:
    """Link: the group advantage without its fading on problems most answers get right. See `mastery_weighted`."""

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        reward_B, judged_B = judged_rewards(rollouts)
        rate_B = pass_rate(rollouts, reward_B.dtype)
        advantage_B = mastery_weighted(reward_B, rate_B, rollouts.group_B, judged_B)
        return spread(credit, rollouts, advantage_B, judged_B), state

    return Link(
        name="mastery_advantage",
        stage="advantage",
        update=update,
        scope="group",
        needs=frozenset({"reward"}),
    )


def hardness_scale(*, alpha: float = -0.256, offset: float = 1.256) -> Link:
    """Link: problems the policy finds harder are learned from with more force.

        A_i ← A_i D,   D = alpha μ + offset,   μ = 2 p - 1

    p is the group's share of right answers, so μ is its mean reward when a right answer earns +1 and a wrong one -1.
    With the defaults D falls from 1.512 (p = 0) to 1 (p = 1). `alpha=0, offset=1` changes nothing.

    Args:
        alpha: slope.
        offset: D at p = 1/2.
    """
    check_number("hardness_scale", "alpha", alpha)
    check_number("hardness_scale", "offset", offset)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        rate_B = pass_rate(rollouts, credit.advantage_BT.dtype)
        factor_B1 = (alpha * (2 * rate_B - 1) + offset)[:, None]
        return dataclasses.replace(credit, advantage_BT=credit.advantage_BT * factor_B1), state

    return Link(
        name="hardness_scale",
        stage="advantage",
        arguments={"alpha": alpha, "offset": offset},
        update=update,
        scope="group",
        needs=frozenset({"reward"}),
        adds=False,
    )


def upper_half(metric_B: Tensor, group_B: Tensor, judged_B: Tensor, order_B: Tensor) -> Tensor:
    """Return which judged answers are in the upper half of their group by a metric, bool (B,).

    Of n answers the n - floor(n / 2) largest; equal values are ordered by `order_B`.

    >>> upper_half(torch.tensor([3.0, 1.0, 2.0]), torch.zeros(3, dtype=torch.int64), torch.ones(3) > 0, torch.arange(3))
    tensor([ True, False,  True])
    """
    index = judged_B.nonzero().squeeze(1)
    segment = torch.unique(group_B[index], return_inverse=True)[1]
    by = torch.argsort(order_B[index], stable=True)
    by = by[torch.argsort(metric_B[index][by], stable=True)]
    by = by[torch.argsort(segment[by], stable=True)]
    size_S = torch.bincount(segment)
    rank = torch.arange(index.numel(), device=index.device) - (size_S.cumsum(0) - size_S)[segment[by]]
    upper_B = torch.zeros_like(judged_B)
    upper_B[index[by]] = rank >= torch.div(size_S, 2, rounding_mode="floor")[segment[by]]
    return upper_B


def between_halves(
    reward_B: Tensor, upper_B: Tensor, group_B: Tensor, judged_B: Tensor, *, inter: Tensor | float, tilt: float
) -> Tensor:
    """Return rewards relative to the other and to the own half of the group.

        upper half:  A = λ (α R - μ_lower) + (1 - λ) (R - μ_upper)
        lower half:  A = λ (R - α μ_upper) + (1 - λ) (R - μ_lower)

    Args:
        reward_B: float (B,).
        upper_B: bool (B,), from `upper_half`.
        group_B: int64 (B,).
        judged_B: bool (B,).
        inter: λ in [0, 1]: 1 compares with the other half, 0 with the own half.
        tilt: α; below 1 the upper half is discounted.

    Returns:
        float (B,); 0 for an answer without judged siblings.

    Source: arXiv 2509.23962 eqs. 5 and 8.
    """
    segment_B = torch.unique(group_B, return_inverse=True)[1]
    reward_B = torch.where(judged_B, reward_B, 0.0)
    count_B = segment_sum(judged_B.to(reward_B.dtype), segment_B)[segment_B]
    middle_B = segment_sum(reward_B, segment_B)[segment_B] / count_B.clamp(min=1)
    # Everything is measured from the group's mean, exactly 0 for equal rewards, so that rounding teaches nothing.
    unequal_B = judged_B & differs(reward_B, segment_B, judged_B)
    centred_B = torch.where(unequal_B, reward_B - middle_B, 0.0)
    means = []
    for half_B in (judged_B & ~upper_B, judged_B & upper_B):
        size_B = segment_sum(half_B.to(reward_B.dtype), segment_B)[segment_B].clamp(min=1)
        means.append(segment_sum(torch.where(half_B, centred_B, 0.0), segment_B)[segment_B] / size_B)
    lower_B, higher_B = means
    discount_B = (tilt - 1) * middle_B
    upper_advantage_B = inter * (tilt * centred_B + discount_B - lower_B) + (1 - inter) * (centred_B - higher_B)
    lower_advantage_B = inter * (centred_B - tilt * higher_B - discount_B) + (1 - inter) * (centred_B - lower_B)
    advantage_B = torch.where(upper_B, upper_advantage_B, lower_advantage_B)
    return torch.where(judged_B & (count_B > 1), advantage_B, 0.0)


def halves_advantage(
    *,
    metric: Literal["entropy", "length"] = "entropy",
    inter: float | Literal["reward"] = 1.0,
    tilt: float = 1.0,
) -> Link:
    """Link: the group is split in halves by a metric, and an answer is compared with the other half.

    See `between_halves`. The metric is rounded to nine decimals, so that equal answers stay equal.

    Args:
        metric: `entropy`, the mean recorded entropy of an answer, or `length` in tokens.
        inter: λ in [0, 1], or `reward`: the mean reward of the batch, cut to [0, 1].
        tilt: α > 0; below 1 the half with the larger metric is discounted.
    """
    check_choice("halves_advantage", "metric", metric, METRICS)
    if isinstance(inter, str) and inter != "reward":
        raise InputError(f"halves_advantage inter is {inter!r}: give a number in [0, 1] or 'reward'")
    if not isinstance(inter, str):
        check_number("halves_advantage", "inter", inter, low=0, high=1)
    check_number("halves_advantage", "tilt", tilt, low=0, open_low=True)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        reward_B, judged_B = judged_rewards(rollouts)
        if metric == "length":
            metric_B = rollouts.mask_BT.sum(1).double()
        else:
            metric_B = answer_mean(entropies(credit, rollouts, None, "behaviour").double(), credit.keep_BT)
        order_B = draw(rollouts, 0)[:, 0] if rollouts.ids_BT.shape[1] else rollouts.sample_B
        upper_B = upper_half(metric_B.round(decimals=9), rollouts.group_B, judged_B, order_B)
        share = torch.where(judged_B, reward_B, 0.0).sum() / judged_B.sum().clamp(min=1)
        weight = share.clamp(0, 1) if isinstance(inter, str) else inter
        advantage_B = between_halves(reward_B, upper_B, rollouts.group_B, judged_B, inter=weight, tilt=tilt)
        return spread(credit, rollouts, advantage_B, judged_B), state

    return Link(
        name="halves_advantage",
        stage="advantage",
        arguments={"metric": metric, "inter": inter, "tilt": tilt},
        update=update,
        scope="rollout" if isinstance(inter, str) else "group",
        needs=frozenset({"reward", "entropy"} if metric == "entropy" else {"reward"}),
    )
