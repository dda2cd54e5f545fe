"""Offline contrast: recorded answers of a base model, learned from at the few tokens where it was undecided."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor

from forkpoint.credit._reading import entropies
from forkpoint.credit.advantage import group_normalised, judged_rewards, spread
from forkpoint.credit.checks import check_choice, check_number
from forkpoint.credit.link import Link, State
from forkpoint.credit.statistics import token_count
from forkpoint.rollouts import Credit, Penalty, Rollouts
from forkpoint.scope import Batching, Scope, segments


def contrast_advantage(*, cap: float = 2.5) -> Link:
    """Link: the group advantage in units of the population's deviation, bounded on both sides.

        A_i = clip((R_i - μ_g) / σ_g, -cap, cap)

    Args:
        cap: > 0; infinity leaves it open.
    """
    if cap != float("inf"):
        check_number("contrast_advantage", "cap", cap, low=0, open_low=True)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        reward_B, judged_B = judged_rewards(rollouts)
        advantage_B = group_normalised(reward_B, rollouts.group_B, judged_B, eps=0.0, correction=0)
        return spread(credit, rollouts, advantage_B.clamp(-cap, cap), judged_B), state

    return Link(
        name="contrast_advantage",
        stage="advantage",
        arguments={"cap": cap},
        update=update,
        scope="group",
        needs=frozenset({"reward"}),
    )


def decision_tokens(*, threshold: float = 1.4, scope: Literal["sequence", "mini"] = "sequence") -> Link:
    """Link: only tokens above an entropy learn, and their mean is taken over them.

        D = {t : H_t > threshold},   weight_t ← weight_t n / |D| in D, 0 elsewhere

    n counts the tokens of the scope, so that under a denominator that averages over them the loss is a mean over D.
    Other tokens stay in the denominator, where a penalty can reach them (`hold_others`).

    Args:
        threshold: >= 0 in nats, for the entropy of the policy that sampled.
        scope: `sequence` for the `sequence` denominator, `mini` for the `token` one.
    """
    _check(threshold, scope, "decision_tokens")

    def update(
        credit: Credit, rollouts: Rollouts, *, batching: Batching, state: State, **_: Any
    ) -> tuple[Credit, State]:
        decides_BT = _decides(credit, rollouts, threshold)
        weight_BT = _share(decides_BT, credit, rollouts, batching, scope)
        return dataclasses.replace(credit, weight_BT=credit.weight_BT * weight_BT), state

    return Link(
        name="decision_tokens",
        stage="selection",
        arguments={"threshold": threshold, "scope": scope},
        update=update,
        when="update" if scope == "mini" else "rollout",
        scope=scope,
        needs=frozenset({"entropy"}),
        adds=False,
    )


def hold_others(
    *, threshold: float = 1.4, coefficient: float = 0.2, scope: Literal["sequence", "mini"] = "sequence"
) -> Link:
    """Link: tokens at or below an entropy are held where the policy that sampled had them.

        penalty_t = coefficient n / (n - |D|) (π / π_old - 1 - log(π / π_old))      outside D = {t : H_t > threshold}

    Under a denominator that averages over the n tokens of the scope it is coefficient times a mean over the tokens
    outside D, and an unbiased estimate of KL(π_old ‖ π) there. `coefficient=0` changes nothing.

    Args:
        threshold: >= 0 in nats, for the entropy of the policy that sampled.
        coefficient: >= 0, in loss per nat.
        scope: `sequence` for the `sequence` denominator, `mini` for the `token` one.
    """
    _check(threshold, scope, "hold_others")
    check_number("hold_others", "coefficient", coefficient, low=0)

    def update(
        credit: Credit, rollouts: Rollouts, *, batching: Batching, state: State, **_: Any
    ) -> tuple[Credit, State]:
        if coefficient == 0:
            return credit, state
        others_BT = credit.keep_BT & ~_decides(credit, rollouts, threshold)
        hold_BT = coefficient * _share(others_BT, credit, rollouts, batching, scope)
        # With threshold 0 the hinge is k3 of the ratio itself, π / π_old - 1 - log(π / π_old).
        held = Penalty(coefficient_BT=hold_BT, target_logp_BT=rollouts.logp_BT, form="hinge", threshold=0.0)
        return dataclasses.replace(credit, penalties=(*credit.penalties, held)), state

    return Link(
        name="hold_others",
        stage="penalty",
        arguments={"threshold": threshold, "coefficient": coefficient, "scope": scope},
        update=update,
        when="update" if scope == "mini" else "rollout",
        scope=scope,
        needs=frozenset({"entropy"}),
        adds=coefficient > 0,
    )


def _check(threshold: float, scope: str, link: str) -> None:
    check_number(link, "threshold", threshold, low=0)
    check_choice(link, "scope", scope, ("sequence", "mini"))


def _decides(credit: Credit, rollouts: Rollouts, threshold: float) -> Tensor:
    return credit.keep_BT & (entropies(credit, rollouts, None, "behaviour") > threshold)


def _share(part_BT: Tensor, credit: Credit, rollouts: Rollouts, batching: Batching, scope: Scope) -> Tensor:
    """Return n / |part| on a part of the tokens that count, 0 elsewhere, counted in every segment of the scope."""
    segment_B = segments(scope, group_B=rollouts.group_B, batching=batching)
    dtype = credit.advantage_BT.dtype
    total_B, part_B = (token_count(x, segment_B, dtype)[segment_B] for x in (credit.keep_BT, part_BT))
    return torch.where(part_BT, (total_B / part_B.clamp(min=1))[:, None], 0.0)
