"""Advantages step by step: every reasoning step of an answer is credited by itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from forkpoint.credit._reading import entropies
from forkpoint.credit.checks import check_number
from forkpoint.credit.link import Link, State
from forkpoint.rollouts import Credit, Rollouts
from forkpoint.scope import segment_sum

ROUNDING = 16
"""Relative differences up to this many units of rounding count as none."""


def _mean(value_N: Tensor, segment_N: Tensor, count: int) -> Tensor:
    """Return the mean of the values of every segment, (count,)."""
    total_S = value_N.new_zeros(count).index_add(0, segment_N, value_N)
    size_S = value_N.new_zeros(count).index_add(0, segment_N, torch.ones_like(value_N))
    return total_S / size_S.clamp(min=1)


def step_modulated(
    advantage_BT: Tensor,
    entropy_BT: Tensor,
    step_BT: Tensor,
    keep_BT: Tensor,
    *,
    k: float = 1.0,
    k_next: float = 1.0,
    zeta: float = 0.05,
    centre: bool = True,
) -> Tensor:
    """Return advantages that grow where a step was certain and where it leads to a certain one.

        h_s = (H_s - min H) / (max H - min H + 1e-8),   g = exp(-k h) / mean exp(-k h),   f = exp(-k_next h)
        A_s ← A_s g(h_s) + zeta f(h_{s+1}),   then minus its mean over all steps

    H_s is the mean entropy of the tokens of step s; extremes and means are taken over all steps of the batch, each
    once. The last step of an answer has no bonus. Tokens outside any step keep their advantage.

    Args:
        advantage_BT: float (B, T).
        entropy_BT: float (B, T), finite where `keep_BT`.
        step_BT: int64 (B, T), number of the step, from 0; -1 for none.
        keep_BT: bool (B, T).
        k: >= 0, how fast the advantage falls with a step's entropy.
        k_next: >= 0, how fast the bonus falls with the next step's entropy.
        zeta: weight of the bonus.
        centre: subtract the mean over steps.

    Returns:
        float (B, T).

    Source: arXiv 2509.09265 eqs. 8 to 12, as a re-implementation cites them.
    """
    inside_BT = keep_BT & (step_BT >= 0)
    # Steps are in order of (row, step): the next one is the answer's next step if the row is the same.
    pair_S, pair_N, width = _pairs(inside_BT, step_BT)
    count = pair_S.numel()
    if count == 0:
        return advantage_BT
    entropy_S = _mean(entropy_BT[inside_BT], pair_N, count)
    width_S = entropy_S.max() - entropy_S.min()
    # Means of equal entropies differ by rounding alone, which 1e-8 would not hide.
    uneven = width_S > ROUNDING * torch.finfo(entropy_S.dtype).eps * entropy_S.max()
    scaled_S = torch.where(uneven, (entropy_S - entropy_S.min()) / (width_S + 1e-8), 0.0)
    gain_S = (-k * scaled_S).exp()
    gain_S = gain_S / gain_S.mean()
    row_S = torch.div(pair_S, width, rounding_mode="floor")
    follows_S = row_S[1:] == row_S[:-1]
    bonus_S = torch.zeros_like(entropy_S)
    bonus_S[:-1] = torch.where(follows_S, zeta * (-k_next * scaled_S[1:]).exp(), 0.0)
    new_N = advantage_BT[inside_BT] * gain_S[pair_N] + bonus_S[pair_N]
    if centre:
        new_N = new_N - _mean(new_N, pair_N, count).mean()
    return advantage_BT.masked_scatter(inside_BT, new_N)


def step_normalised(
    reward_BT: Tensor, step_BT: Tensor, keep_BT: Tensor, group_B: Tensor, *, eps: float = 1e-6
) -> Tensor:
    """Return what a judge gave every step, relative to the same step of the group's other answers.

        z_ik = (d_ik - μ_k) / (σ_k + eps)      over the answers of the group in which step k was judged
        z_ik = 0                               with fewer than two of them, or where σ_k <= eps

    Args:
        reward_BT: float (B, T), d of the step a token belongs to, the same for its tokens; NaN where nothing was said.
        step_BT: int64 (B, T), number of the step, from 0; -1 for none.
        keep_BT: bool (B, T).
        group_B: int64 (B,).
        eps: >= 0, added to the unbiased σ_k.

    Returns:
        float (B, T), 0 outside the judged steps.

    Source: arXiv 2605.17291 and its code.
    """
    inside_BT = keep_BT & (step_BT >= 0) & reward_BT.isfinite()
    pair_S, pair_N, width = _pairs(inside_BT, step_BT)
    mean_S = _mean(reward_BT[inside_BT], pair_N, pair_S.numel())
    group_B = torch.unique(group_B, return_inverse=True)[1]
    key_S = group_B[torch.div(pair_S, width, rounding_mode="floor")] * width + pair_S % width
    score_S = _scores(mean_S, torch.unique(key_S, return_inverse=True)[1], eps)
    return torch.zeros_like(reward_BT).masked_scatter(inside_BT, score_S[pair_N])


def _pairs(inside_BT: Tensor, step_BT: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return row * width + step of every step there is, in order; which one each token is in; and the width."""
    row_BT = torch.arange(inside_BT.shape[0], device=inside_BT.device)[:, None]
    width = int(step_BT[inside_BT].max()) + 1 if bool(inside_BT.any()) else 1
    pair_S, pair_N = torch.unique((row_BT * width + step_BT.long())[inside_BT], return_inverse=True)
    return pair_S, pair_N, width


def _scores(value_N: Tensor, segment_N: Tensor, eps: float) -> Tensor:
    """Return (x - μ) / (σ + eps) in every segment, 0 where σ <= eps or there is one value."""
    count_N = segment_sum(torch.ones_like(value_N), segment_N)[segment_N]
    mean_N = segment_sum(value_N, segment_N)[segment_N] / count_N
    centred_N = value_N - mean_N
    deviation_N = (segment_sum(centred_N**2, segment_N)[segment_N] / (count_N - 1).clamp(min=1)).sqrt()
    # Equal values are a little off their mean.
    rounding_N = ROUNDING * torch.finfo(value_N.dtype).eps * mean_N.abs()
    varied_N = (count_N > 1) & (deviation_N > rounding_N.clamp(min=eps))
    return torch.where(varied_N, centred_N / torch.where(varied_N, deviation_N + eps, 1.0), 0.0)


def step_modulation(*, k: float = 1.0, k_next: float = 1.0, zeta: float = 0.05, centre: bool = True) -> Link:
    """Link: certain steps and steps that lead to certain ones gain advantage. See `step_modulated`.

    With `k=0, zeta=0, centre=False` it changes nothing. With `zeta > 0` a batch of equal rewards teaches too: the
    bonus does not come from the reward.

    Args:
        k: >= 0.
        k_next: >= 0.
        zeta: >= 0, in units of the advantage.
        centre: subtract the mean over all steps of the rollout batch.

    Returns:
        A link that needs `step`: the number of the step each token belongs to, int64 (B, T), -1 for none.
    """
    for name, value in (("k", k), ("k_next", k_next), ("zeta", zeta)):
        check_number("step_modulation", name, value, low=0)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        advantage_BT = step_modulated(
            credit.advantage_BT, entropies(credit, rollouts, None, "behaviour"), rollouts.extra["step"],
            credit.keep_BT, k=k, k_next=k_next, zeta=zeta, centre=centre,
        )  # fmt: skip
        return dataclasses.replace(credit, advantage_BT=advantage_BT), state

    return Link(
        name="step_modulation",
        stage="advantage",
        arguments={"k": k, "k_next": k_next, "zeta": zeta, "centre": centre},
        update=update,
        scope="rollout",
        needs=frozenset({"entropy", "step"}),
    )


def step_advantage(*, coefficient: float = 1.0, eps: float = 1e-6) -> Link:
    """Link: what a judge says of every step is added to the advantage of its tokens. See `step_normalised`.

        A_t ← A_t + coefficient (z_{i, step(t)} + z_i)

    z_i is the same of a verdict on the answer as a whole, `answer_reward` (B,), where the rollouts have one.
    `coefficient=0` changes nothing.

    Args:
        coefficient: >= 0; 1 in the paper.
        eps: >= 0, added to the deviations.

    Returns:
        A link that needs `step` and `step_reward`: the step each token belongs to, and what a judge gave it.
    """
    check_number("step_advantage", "coefficient", coefficient, low=0)
    check_number("step_advantage", "eps", eps, low=0)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        keep_BT, dtype = credit.keep_BT, credit.advantage_BT.dtype
        reward_BT = rollouts.extra["step_reward"].to(dtype)
        score_BT = step_normalised(reward_BT, rollouts.extra["step"], keep_BT, rollouts.group_B, eps=eps)
        whole_B = rollouts.extra.get("answer_reward")
        if whole_B is not None:
            whole_BT = whole_B.to(dtype)[:, None].expand_as(keep_BT)
            one_BT = torch.zeros_like(keep_BT, dtype=torch.int64)
            score_BT = score_BT + step_normalised(whole_BT, one_BT, keep_BT, rollouts.group_B, eps=eps)
        return dataclasses.replace(credit, advantage_BT=credit.advantage_BT + coefficient * score_BT), state

    return Link(
        name="step_advantage",
        stage="advantage",
        arguments={"coefficient": coefficient, "eps": eps},
        update=update,
        scope="group",
        needs=frozenset({"step", "step_reward"}),
    )
