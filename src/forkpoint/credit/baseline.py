"""Advantages against other baselines than the plain mean of the group."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor

from forkpoint.credit._choice import check_finite
from forkpoint.credit.advantage import differs, group_normalised, judged_rewards, spread
from forkpoint.credit.checks import check_choice, check_number
from forkpoint.credit.link import Link, State
from forkpoint.rollouts import Credit, Rollouts
from forkpoint.scope import segment_sum


def length_weighted(reward_B: Tensor, length_B: Tensor, group_B: Tensor, judged_B: Tensor) -> Tensor:
    """Return the reward of every answer minus its group's mean, in which an answer weighs by its length.

        A_i = R_i - Σ_j l_j R_j / Σ_j l_j

    Args:
        reward_B: float (B,).
        length_B: (B,), tokens.
        group_B: int64 (B,).
        judged_B: bool (B,); answers that could not be judged take no part and get 0.

    Returns:
        float (B,); 0 for a group of one or of equal rewards.

    Source: arXiv 2505.23585 (OPO).

    >>> g, j = torch.tensor([0, 0]), torch.ones(2, dtype=torch.bool)
    >>> length_weighted(torch.tensor([1.0, 0.0]), torch.tensor([1, 3]), g, j)
    tensor([ 0.7500, -0.2500])
    """
    segment_B = torch.unique(group_B, return_inverse=True)[1]
    reward_B = torch.where(judged_B, reward_B, 0.0)
    length_B = torch.where(judged_B, length_B, 0).to(reward_B.dtype)
    sum_B = segment_sum(length_B * reward_B, segment_B)[segment_B]
    mean_B = sum_B / segment_sum(length_B, segment_B)[segment_B].clamp(min=1)
    return torch.where(judged_B & differs(reward_B, segment_B, judged_B), reward_B - mean_B, 0.0)


def best_answer(reward_B: Tensor, group_B: Tensor, judged_B: Tensor, *, std: bool = True, eps: float = 1e-6) -> Tensor:
    """Return by how much the best answer of a group beats the second; every other answer gets 0.

        A_i = (R_i - second largest R) / (σ_g + eps)   for the single best answer

    Args:
        reward_B: float (B,).
        group_B: int64 (B,).
        judged_B: bool (B,).
        std: divide by the group's unbiased deviation.
        eps: added to it.

    Returns:
        float (B,); 0 where two answers share the best reward, and in a group of one.

    Source: arXiv 2503.19595 (pass@k with k the size of the group), as in verl.

    >>> g, j = torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.bool)
    >>> best_answer(torch.tensor([0.0, 3.0, 1.0]), g, j, std=False)
    tensor([0., 2., 0.])
    """
    segment_B = torch.unique(group_B, return_inverse=True)[1]

    def largest(among_B: Tensor) -> Tensor:
        given_B = torch.where(among_B, reward_B, -torch.inf)
        return torch.zeros_like(reward_B).scatter_reduce(0, segment_B, given_B, "amax", include_self=False)[segment_B]

    best_B = judged_B & (reward_B == largest(judged_B))
    single_B = segment_sum(best_B.long(), segment_B)[segment_B] == 1
    second_B = largest(judged_B & ~best_B)
    lead_B = torch.where(best_B & single_B & second_B.isfinite(), reward_B - second_B, 0.0)
    if not std:
        return lead_B
    centred_B = group_normalised(reward_B, group_B, judged_B, std=False)
    count_B = segment_sum(judged_B.to(centred_B.dtype), segment_B)[segment_B]
    deviation_B = (segment_sum(centred_B**2, segment_B)[segment_B] / (count_B - 1).clamp(min=1)).sqrt() + eps
    return torch.where(lead_B == 0, 0.0, lead_B / torch.where(deviation_B > 0, deviation_B, 1.0))


def length_weighted_advantage() -> Link:
    """Link: the group's mean reward, weighed by length, is the baseline. See `length_weighted`."""

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        reward_B, judged_B = judged_rewards(rollouts)
        advantage_B = length_weighted(reward_B, rollouts.mask_BT.sum(1), rollouts.group_B, judged_B)
        return spread(credit, rollouts, advantage_B, judged_B), state

    return Link(
        name="length_weighted_advantage", stage="advantage", update=update, scope="group", needs=frozenset({"reward"})
    )


def best_answer_advantage(*, std: bool = True, eps: float = 1e-6) -> Link:
    """Link: only the best answer of a group learns, by its lead. See `best_answer`.

    Args:
        std: divide by the group's deviation.
        eps: >= 0, added to it.
    """
    check_number("best_answer_advantage", "eps", eps, low=0)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        reward_B, judged_B = judged_rewards(rollouts)
        advantage_B = best_answer(reward_B, rollouts.group_B, judged_B, std=std, eps=eps)
        return spread(credit, rollouts, advantage_B, judged_B), state

    return Link(
        name="best_answer_advantage",
        stage="advantage",
        arguments={"std": std, "eps": eps},
        update=update,
        scope="group",
        needs=frozenset({"reward"}),
    )


def group_policy_gradient(*, count: Literal["teaching", "nonzero"] = "teaching") -> Link:
    """Link: the centred reward, scaled up for the answers of the batch that teach nothing.

        A_i = (B / M) (R_i - μ_g)

    with B judged answers, of which M teach. Where all do it is Dr. GRPO's advantage.

    Args:
        count: M is the number of answers in groups of different rewards, `teaching`, or with a reward that is not 0,
            `nonzero`, which is verl's.

    Source: arXiv 2504.02546 (GPG); verl's `gpg`.
    """
    check_choice("group_policy_gradient", "count", count, ("teaching", "nonzero"))

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        reward_B, judged_B = judged_rewards(rollouts)
        segment_B = torch.unique(rollouts.group_B, return_inverse=True)[1]
        teaches_B = judged_B & (reward_B != 0 if count == "nonzero" else differs(reward_B, segment_B, judged_B))
        scale = judged_B.sum().to(reward_B.dtype) / teaches_B.sum().clamp(min=1)
        advantage_B = scale * group_normalised(reward_B, rollouts.group_B, judged_B, std=False)
        return spread(credit, rollouts, advantage_B, judged_B), state

    return Link(
        name="group_policy_gradient",
        stage="advantage",
        arguments={"count": count},
        update=update,
        scope="rollout",
        needs=frozenset({"reward"}),
    )


def token_baseline_advantage(*, lone: Literal["reward", "zero"] = "zero") -> Link:
    """Link: at every position the answers of a group weigh in the baseline by the gradient they have gathered so far.

        b_t = Σ_i R_i W_it / Σ_i W_it,   W_it = Σ_{s<=t} (1 - 2 π_s + Σ_v π_sv²),   A_it = R_i - b_t

    over the answers that are at least t tokens long. With equal W it is the mean of those.

    Args:
        lone: what the longest answer of a group gets beyond the second longest, where there is nothing to compare it
            with: `zero`, or its `reward` as in verl.

    Returns:
        A link that needs `collision`.

    Source: "The Optimal Token Baseline" (PMLR 306, li26hy); verl's `optimal_token_baseline`, in which a group of one
    or of equal rewards learns, too.
    """
    check_choice("token_baseline_advantage", "lone", lone, ("reward", "zero"))

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        reward_B, judged_B = judged_rewards(rollouts)
        dtype = credit.advantage_BT.dtype
        keep_BT = credit.keep_BT & judged_B[:, None]
        for value_BT, name in ((rollouts.logp_BT, "log-prob"), (rollouts.extra["collision"], "collision")):
            check_finite(value_BT, keep_BT, "recorded", of=name)
        segment_B = torch.unique(rollouts.group_B, return_inverse=True)[1]
        square_BT = 1 - 2 * rollouts.logp_BT.to(dtype).exp() + rollouts.extra["collision"].to(dtype)
        path_BT = torch.where(keep_BT, square_BT, 0.0).cumsum(1) * keep_BT
        reward_B1 = torch.where(judged_B, reward_B, 0.0).to(dtype)[:, None]
        groups = int(segment_B.max()) + 1 if segment_B.numel() else 0

        def total(value_BT: Tensor) -> Tensor:
            return value_BT.new_zeros(groups, value_BT.shape[1]).index_add(0, segment_B, value_BT)[segment_B]

        sum_BT = total(path_BT)
        baseline_BT = total(reward_B1 * path_BT) / torch.where(sum_BT > 0, sum_BT, 1.0)
        alone_BT = total(keep_BT.to(dtype)) < 2
        advantage_BT = torch.where(alone_BT, reward_B1 if lone == "reward" else 0.0, reward_B1 - baseline_BT)
        learns_B1 = differs(reward_B, segment_B, judged_B)[:, None]
        advantage_BT = torch.where(keep_BT & learns_B1, advantage_BT, 0.0)
        return dataclasses.replace(credit, advantage_BT=advantage_BT, keep_BT=keep_BT), state

    return Link(
        name="token_baseline_advantage",
        stage="advantage",
        arguments={"lone": lone},
        update=update,
        scope="group",
        needs=frozenset({"reward", "collision"}),
    )
