"""Pulls of some tokens towards another policy: filtered, sampling or reference."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from forkpoint.credit._choice import draw
from forkpoint.credit._reading import pass_rate, right_answers
from forkpoint.credit.advantage import judged_rewards, leave_one_out, spread
from forkpoint.credit.checks import check_number
from forkpoint.credit.link import Link, State
from forkpoint.credit.statistics import answer_mean
from forkpoint.errors import InputError
from forkpoint.rollouts import Credit, Forward, Penalty, Rollouts
from forkpoint.scope import Batching, Scope, check_scope, segment_sum, segments, top_count


def low_probability(*, share: float = 0.01, coefficient: float = 1.0, scope: Scope = "mini") -> Link:
    """Link: improbable tokens of bad answers that a noise filter lets pass are held instead of pushed down.

        L_t = -r A + coefficient k3(log q - log π)   for t in S
        S = {t among the floor(share N) least probable of the N tokens with A < 0: log π_t < log q_t}

    q is the policy that sampled, filtered by min-p and renormalised; a token that the filter removes has log q = -inf
    and is never held. Tokens in S have no ratio clip. Where floor(share N) <= 1, and with `share=0`, nothing
    changes.

    Args:
        share: in [0, 1], of the tokens with a negative advantage.
        coefficient: >= 0, in loss per nat.
        scope: over which tokens the share is taken; the released code takes the micro-batch.

    Source: arXiv 2510.03222 and its code.
    """
    check_number("low_probability", "share", share, low=0, high=1)
    check_number("low_probability", "coefficient", coefficient, low=0)
    check_scope(scope)

    def update(
        credit: Credit, rollouts: Rollouts, *, forward: Forward | None, batching: Batching, state: State, **_: Any
    ) -> tuple[Credit, State]:
        assert forward is not None  # noqa: S101 - checked by check_needs
        segment_B = segments(scope, group_B=rollouts.group_B, batching=batching)
        bad_BT = credit.keep_BT & (credit.advantage_BT < 0)
        size_S = segment_sum(bad_BT.sum(1), segment_B)
        count_S = (share * size_S.double() + 1e-9).floor().to(torch.int64)
        count_S = torch.where(count_S <= 1, 0, count_S)
        logp_BT = torch.where(bad_BT, forward.logp_BT, 0.0).to(credit.advantage_BT.dtype)
        least_BT = top_count(-logp_BT, bad_BT, count_S, segment_B, draw(rollouts, 0))
        proxy_BT = rollouts.extra["proxy_logp"].to(logp_BT.dtype)
        held_BT = least_BT & (logp_BT < proxy_BT)
        penalty = Penalty(
            coefficient_BT=coefficient * held_BT.to(logp_BT.dtype),
            target_logp_BT=torch.where(held_BT, proxy_BT, 0.0),
            form="k3",
        )
        free_BT = held_BT if credit.unclipped_BT is None else held_BT | credit.unclipped_BT
        return dataclasses.replace(credit, unclipped_BT=free_BT, penalties=(*credit.penalties, penalty)), state

    return Link(
        name="low_probability",
        stage="penalty",
        arguments={"share": share, "coefficient": coefficient, "scope": scope},
        update=update,
        when="update",
        scope=scope,
        needs=frozenset({"forward", "proxy_logp", "reward"}),
        adds=False,  # what it holds has an advantage
    )


def mastered_hinge(*, coefficient: float = 1.0, threshold: float = 0.01) -> Link:
    """Link: answers of problems that every sibling solved, which have no advantage, may not drift.

        L_t += coefficient (k3(d) - k3(±threshold))   where |d| > threshold,   d = log π - log π_old

    with k3(d) = exp(d) - d - 1 and the sign that of d, on groups whose judged answers are all right.
    `coefficient=0` changes nothing; `threshold=0` is k3 itself.

    Args:
        coefficient: >= 0, in loss per nat.
        threshold: >= 0, in nats.

    Source: arXiv 2604.16972.
    """
    check_number("mastered_hinge", "coefficient", coefficient, low=0)
    check_number("mastered_hinge", "threshold", threshold, low=0)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        if coefficient == 0:
            return credit, state
        mastered_B = (pass_rate(rollouts, torch.float64) == 1) & right_answers(rollouts)[0]
        penalty = Penalty(
            coefficient_BT=coefficient * (mastered_B[:, None] & credit.keep_BT).to(credit.advantage_BT.dtype),
            target_logp_BT=rollouts.logp_BT,
            form="hinge",
            threshold=threshold,
        )
        return dataclasses.replace(credit, penalties=(*credit.penalties, penalty)), state

    return Link(
        name="mastered_hinge",
        stage="penalty",
        arguments={"coefficient": coefficient, "threshold": threshold},
        update=update,
        scope="group",
        needs=frozenset({"reward"}),
    )


BUCKETS = ("easy", "medium", "hard")


def difficulty_of(rate_B: Tensor) -> Tensor:
    """Return 0 (easy) for a pass rate of 2/3 or more, 1 (medium) for 1/3 or more, else 2 (hard).

    >>> difficulty_of(torch.tensor([1.0, 2 / 3, 0.5, 0.25]))
    tensor([0, 0, 1, 2])
    """
    near = 1e-6  # a third of 3 answers is not exactly 1/3
    return (rate_B < 2 / 3 - near).to(torch.int64) + (rate_B < 1 / 3 - near).to(torch.int64)


def difficulty_kl(
    *,
    coefficient: float = 0.01,
    start: float = 1.0,
    target: float = 0.01,
    rate: float = 0.05,
    decay: float = 0.97,
    limit: float = 0.2,
    deadzone: float = 0.02,
    every: int = 100,
) -> Link:
    """Link: a KL to the reference whose strength follows a target, apart for easy, medium and hard problems.

        L_t += coefficient β_b k3(log π_ref - log π)
        log β_b += rate clamp(ē_b, -limit, limit),   e_b = KL_b / target - 1,  at every `every`-th update

    KL_b is the mean over answers of their token means, smoothed by `decay`; ē_b is e_b smoothed by `decay` over those
    updates. Errors below `deadzone` in size are passed over. β stays in [1e-4, 100]. A problem is easy from a pass
    rate of 2/3, medium from 1/3. With `rate=0` it is `kl` with `coefficient * start`.

    Args:
        coefficient: >= 0, in loss per nat.
        start: > 0, β of every bucket before the first update.
        target: > 0, KL in nats a token.
        rate: >= 0, step of log β.
        decay: in [0, 1), of both averages.
        limit: > 0, largest error that a step sees.
        deadzone: >= 0.
        every: >= 1, updates between steps.

    Source: code of arXiv 2510.08457.
    """
    for name, value, high in (
        ("coefficient", coefficient, float("inf")),
        ("rate", rate, float("inf")),
        ("decay", decay, 1.0),
    ):
        check_number("difficulty_kl", name, value, low=0, high=high)
    for name, value in (("start", start), ("target", target), ("limit", limit)):
        check_number("difficulty_kl", name, value, low=0, open_low=True)
    check_number("difficulty_kl", "deadzone", deadzone, low=0)
    if every < 1:
        raise InputError(f"difficulty_kl every is {every} and must be at least 1 update")

    def step(bucket: dict[str, Any], now: float, due: bool) -> dict[str, Any]:
        mean = now if bucket["kl"] is None else (1 - decay) * now + decay * bucket["kl"]
        error = mean / target - 1
        if abs(error) < deadzone or not due:
            return {**bucket, "kl": mean}
        smooth = (1 - decay) * error + decay * bucket["error"]
        moved = torch.tensor(bucket["beta"], dtype=torch.float64).log() + rate * max(-limit, min(limit, smooth))
        return {"beta": float(moved.exp().clamp(1e-4, 100.0)), "kl": mean, "error": smooth}

    def update(
        credit: Credit, rollouts: Rollouts, *, forward: Forward | None, state: State, **_: Any
    ) -> tuple[Credit, State]:
        assert forward is not None  # noqa: S101 - checked by check_needs
        assert rollouts.ref_logp_BT is not None  # noqa: S101 - checked by check_needs
        if coefficient == 0:
            return credit, state
        keep_BT, dtype = credit.keep_BT, credit.advantage_BT.dtype
        delta_BT = torch.where(keep_BT, rollouts.ref_logp_BT, 0.0) - torch.where(keep_BT, forward.logp_BT, 0.0)
        kl_B = answer_mean((torch.expm1(delta_BT) - delta_BT).to(dtype), keep_BT)
        bucket_B = difficulty_of(pass_rate(rollouts, torch.float64))
        calls, buckets = state["calls"] + 1, dict(state["buckets"])
        for index, name in enumerate(BUCKETS):
            here_B = (bucket_B == index) & keep_BT.any(1)
            if bool(here_B.any()):
                buckets[name] = step(buckets[name], float(kl_B[here_B].mean()), calls % every == 0)
        beta = torch.tensor([buckets[name]["beta"] for name in BUCKETS], dtype=dtype, device=bucket_B.device)
        penalty = Penalty(
            coefficient_BT=(coefficient * beta[bucket_B])[:, None].expand_as(credit.advantage_BT),
            target_logp_BT=rollouts.ref_logp_BT,
            form="k3",
        )
        return dataclasses.replace(credit, penalties=(*credit.penalties, penalty)), {"calls": calls, "buckets": buckets}

    return Link(
        name="difficulty_kl",
        stage="penalty",
        arguments={
            "coefficient": coefficient, "start": start, "target": target, "rate": rate, "decay": decay,
            "limit": limit, "deadzone": deadzone, "every": every,
        },
        update=update,
        when="update",
        scope="mini",
        needs=frozenset({"forward", "ref_logp", "reward"} if coefficient > 0 else {"reward"}),
        init=lambda: {
            "calls": 0, "buckets": {name: {"beta": start, "kl": None, "error": 0.0} for name in BUCKETS},
        },
    )  # fmt: skip


def anchored_advantage(*, kl: float = 2e-4) -> Link:
    """Link: leave-one-out advantage of rewards that pay for their distance to the reference.

        A_i = R_i - kl K_i - mean_{j≠i} (R_j - kl K_j),   K_i = Σ_t (log π_old - log π_ref)

    `kl=0` is `leave_one_out_advantage`.

    Args:
        kl: >= 0, in reward per nat.

    Source: arXiv 2501.11651: a KL in the reward, less the mean of the other samples' KL.
    """
    check_number("anchored_advantage", "kl", kl, low=0)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        reward_B, judged_B = judged_rewards(rollouts)
        if kl > 0:
            assert rollouts.ref_logp_BT is not None  # noqa: S101 - checked by check_needs
            apart_BT = torch.where(rollouts.mask_BT, rollouts.logp_BT - rollouts.ref_logp_BT, 0.0)
            reward_B = reward_B - kl * apart_BT.to(reward_B.dtype).sum(1)
        return spread(credit, rollouts, leave_one_out(reward_B, rollouts.group_B, judged_B), judged_B), state

    return Link(
        name="anchored_advantage",
        stage="advantage",
        arguments={"kl": kl},
        update=update,
        scope="group",
        needs=frozenset({"reward", "ref_logp"} if kl > 0 else {"reward"}),
    )
