"""Advantages: from one reward an answer to one number a token."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor

from forkpoint.credit.link import Link, State
from forkpoint.errors import InputError, did_you_mean
from forkpoint.rollouts import Credit, Rollouts
from forkpoint.scope import segment_sum


def group_normalised(
    reward_B: Tensor,
    group_B: Tensor,
    judged_B: Tensor,
    *,
    std: bool = True,
    eps: float = 1e-6,
    correction: int = 1,
) -> Tensor:
    """Return the reward of every answer relative to its group.

        A_i = (R_i - μ_g) / (σ_g + eps)      with std (GRPO)
        A_i =  R_i - μ_g                     without (Dr. GRPO)

    μ_g and σ_g (divisor n - correction) are taken over the judged answers of the group.

    Args:
        reward_B: float (B,), in units of reward.
        group_B: int64 (B,).
        judged_B: bool (B,); answers that could not be judged take no part and get 0.
        std: divide by the group's standard deviation.
        eps: added to it, in units of reward.
        correction: 1 for the unbiased deviation, 0 for that of the population.

    Returns:
        float (B,); 0 for a group of one or of equal rewards.

    Source: arXiv 2402.03300 sec. 4.1.2 (GRPO), arXiv 2503.20783 sec. 3.2 (without std).

    >>> g, j = torch.tensor([0, 0, 0, 0]), torch.ones(4, dtype=torch.bool)
    >>> group_normalised(torch.tensor([1.0, 0.0, 0.0, 0.0]), g, j)
    tensor([ 1.5000, -0.5000, -0.5000, -0.5000])
    """
    segment_B = torch.unique(group_B, return_inverse=True)[1]
    reward_B = torch.where(judged_B, reward_B, 0.0)
    count_B = segment_sum(judged_B.to(reward_B.dtype), segment_B)[segment_B]
    mean_B = segment_sum(reward_B, segment_B)[segment_B] / count_B.clamp(min=1)
    # Rounding leaves equal rewards a little off their mean, and σ is no larger than that: A would be big.
    learns_B = judged_B & differs(reward_B, segment_B, judged_B)
    centred_B = torch.where(learns_B, reward_B - mean_B, 0.0)
    if not std:
        return centred_B
    variance_B = segment_sum(centred_B**2, segment_B)[segment_B] / (count_B - correction).clamp(min=1)
    deviation_B = variance_B.sqrt() + eps
    return torch.where(centred_B == 0, 0.0, centred_B / torch.where(deviation_B > 0, deviation_B, 1.0))


def differs(reward_B: Tensor, segment_B: Tensor, judged_B: Tensor) -> Tensor:
    """Return, for every answer, whether the judged answers of its segment have more than one reward."""
    extreme_S = torch.zeros_like(reward_B)
    highest_S = extreme_S.scatter_reduce(
        0, segment_B, torch.where(judged_B, reward_B, -torch.inf), "amax", include_self=False
    )
    lowest_S = extreme_S.scatter_reduce(
        0, segment_B, torch.where(judged_B, reward_B, torch.inf), "amin", include_self=False
    )
    return (highest_S > lowest_S)[segment_B]


def leave_one_out(reward_B: Tensor, group_B: Tensor, judged_B: Tensor) -> Tensor:
    """Return the reward of every answer minus the mean reward of the others in its group.

        A_i = R_i - 1/(n-1) Σ_{j≠i} R_j = n/(n-1) (R_i - μ_g)

    Args:
        reward_B: float (B,).
        group_B: int64 (B,).
        judged_B: bool (B,).

    Returns:
        float (B,); 0 where an answer has no judged sibling.

    Source: arXiv 2402.14740 sec. 2.2 (RLOO).

    >>> leave_one_out(torch.tensor([1.0, 0.0, 0.0]), torch.zeros(3, dtype=torch.int64), torch.ones(3) > 0)
    tensor([ 1.0000, -0.5000, -0.5000])
    """
    segment_B = torch.unique(group_B, return_inverse=True)[1]
    count_B = segment_sum(judged_B.to(reward_B.dtype), segment_B)[segment_B]
    centred_B = group_normalised(reward_B, group_B, judged_B, std=False)
    return centred_B * torch.where(count_B > 1, count_B / (count_B - 1).clamp(min=1), 0.0)


def batch_whitened(value_BT: Tensor, mask_BT: Tensor, *, eps: float = 1e-8) -> Tensor:
    """Return values with mean 0 and variance 1 over all tokens of the batch.

        A = (x - μ) / sqrt(σ² + eps)

    μ and the unbiased σ² are taken over the tokens where `mask_BT`: a long answer weighs more.

    Args:
        value_BT: float (B, T).
        mask_BT: bool (B, T).
        eps: added to the variance.

    Returns:
        float (B, T), 0 outside the mask.

    Source: arXiv 2501.03262 eq. 6 (REINFORCE++).
    """
    x_BT = torch.where(mask_BT, value_BT, 0.0)
    count = mask_BT.sum().clamp(min=1)
    centred_BT = torch.where(mask_BT, x_BT - x_BT.sum() / count, 0.0)
    variance = (centred_BT**2).sum() / (count - 1).clamp(min=1)
    return centred_BT / (variance + eps).sqrt()


def group_advantage(*, std: bool = True, eps: float = 1e-6) -> Link:
    """Link: the group-relative advantage of GRPO, the same for every token of an answer.

    With `std=False` it is Dr. GRPO's. See `group_normalised`.

    Args:
        std: divide by the group's standard deviation.
        eps: added to the standard deviation.
    """

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        reward_B, judged_B = judged_rewards(rollouts)
        advantage_B = group_normalised(reward_B, rollouts.group_B, judged_B, std=std, eps=eps)
        return spread(credit, rollouts, advantage_B, judged_B), state

    return Link(
        name="group_advantage",
        stage="advantage",
        arguments={"std": std, "eps": eps},
        update=update,
        scope="group",
        needs=frozenset({"reward"}),
    )


def leave_one_out_advantage() -> Link:
    """Link: the leave-one-out advantage of RLOO. See `leave_one_out`."""

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        reward_B, judged_B = judged_rewards(rollouts)
        advantage_B = leave_one_out(reward_B, rollouts.group_B, judged_B)
        return spread(credit, rollouts, advantage_B, judged_B), state

    return Link(
        name="leave_one_out_advantage", stage="advantage", update=update, scope="group", needs=frozenset({"reward"})
    )


def batch_advantage(*, baseline: Literal["none", "group"] = "none", kl: float = 0.0, eps: float = 1e-8) -> Link:
    """Link: the batch-whitened return of REINFORCE++.

        G_t = R - kl Σ_{s≥t} (log π_old(y_s) - log π_ref(y_s)),   A = whiten(G)

    Args:
        baseline: `none` is REINFORCE++; `group` subtracts the group mean from R first (its baseline form).
        kl: >= 0, per-token k1 penalty inside the return, in reward per nat; needs a reference model when > 0.
        eps: added to the variance.

    Source: arXiv 2501.03262 eqs. 4 to 6; discount 1.
    """
    if baseline not in ("none", "group"):
        raise InputError(f"unknown baseline {baseline!r}: {did_you_mean(baseline, ('none', 'group'))}")
    if kl < 0:
        raise InputError(f"kl is {kl} and must be >= 0")

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        reward_B, judged_B = judged_rewards(rollouts)
        if baseline == "group":
            reward_B = group_normalised(reward_B, rollouts.group_B, judged_B, std=False)
        keep_BT = credit.keep_BT & judged_B[:, None]
        return_BT = reward_B[:, None].to(credit.advantage_BT.dtype).expand_as(rollouts.logp_BT)
        if kl > 0:
            ref_BT = rollouts.ref_logp_BT
            assert ref_BT is not None  # noqa: S101 - checked by check_needs
            k1_BT = torch.where(rollouts.mask_BT, rollouts.logp_BT - ref_BT, 0.0)
            return_BT = return_BT - kl * k1_BT.flip(1).cumsum(1).flip(1)
        advantage_BT = batch_whitened(return_BT, keep_BT, eps=eps)
        return dataclasses.replace(credit, advantage_BT=advantage_BT, keep_BT=keep_BT), state

    return Link(
        name="batch_advantage",
        stage="advantage",
        arguments={"baseline": baseline, "kl": kl, "eps": eps},
        update=update,
        scope="rollout",
        needs=frozenset({"reward", "ref_logp"} if kl > 0 else {"reward"}),
    )


def judged_rewards(rollouts: Rollouts) -> tuple[Tensor, Tensor]:
    """Return the rewards and which of them count; a reward that is not finite counts as not judged."""
    reward_B, judged_B = rollouts.reward_B, rollouts.judged_B
    assert reward_B is not None  # noqa: S101 - checked by check_needs
    # bfloat16 cannot count past 256.
    reward_B = reward_B.to(torch.promote_types(reward_B.dtype, torch.float32))
    finite_B = reward_B.isfinite()
    return reward_B, finite_B if judged_B is None else judged_B & finite_B


def spread(credit: Credit, rollouts: Rollouts, advantage_B: Tensor, judged_B: Tensor) -> Credit:
    """Give every token of an answer the same advantage; what was not judged leaves the denominator."""
    advantage_BT = torch.where(rollouts.mask_BT, advantage_B[:, None].to(credit.advantage_BT.dtype), 0.0)
    return dataclasses.replace(credit, advantage_BT=advantage_BT, keep_BT=credit.keep_BT & judged_B[:, None])
