"""Weights by where a token looks."""

from __future__ import annotations

from typing import Any

import torch

from forkpoint.credit._choice import check_finite, weighted
from forkpoint.credit.checks import check_number
from forkpoint.credit.link import Link, State
from forkpoint.credit.weight import segment_extreme
from forkpoint.rollouts import Credit, Rollouts
from forkpoint.scope import Batching, Scope, check_scope, segment_sum, segments


def attention_weight(*, strength: float = 0.0, scope: Scope = "rollout") -> Link:
    """Link: tokens that look back widely weigh more than those that look at little, or less.

        w_t = exp(strength u_t) / mean exp(strength u),   u the attention entropy in [0, 1]

    The mean weight of every scope is 1. A negative strength favours tokens with focused attention (anchors), a
    positive one those with diffuse attention (explorers); `strength=0` changes nothing. Let it rise over a run
    with `scheduled` to move from one to the other.

    Args:
        strength: any number; e^|strength| is the largest possible ratio of two weights.
        scope: over which tokens the mean weight is 1.

    Raises:
        InputError: a strength that is not finite, or an attention entropy that is not.

    Source: the idea of arXiv 2605.07660, whose weight function is not known; this one is ours.
    """
    check_number("attention_weight", "strength", strength)
    check_scope(scope)

    def update(
        credit: Credit, rollouts: Rollouts, *, batching: Batching, state: State, **_: Any
    ) -> tuple[Credit, State]:
        if strength == 0:
            return credit, state
        wide_BT = rollouts.extra["attention_entropy"]
        check_finite(wide_BT, credit.keep_BT, "recorded", of="attention entropy")
        segment_B = segments(scope, group_B=rollouts.group_B, batching=batching)
        power_BT = strength * wide_BT.to(credit.weight_BT.dtype)
        # Below the largest of its scope, so that exp neither overflows nor vanishes everywhere.
        power_BT = power_BT - segment_extreme(power_BT, credit.keep_BT, segment_B, "amax")
        raw_BT = torch.where(credit.keep_BT, power_BT, -torch.inf).exp()
        count_S = segment_sum(credit.keep_BT.sum(1), segment_B).clamp(min=1)
        mean_S = segment_sum(raw_BT.sum(1), segment_B) / count_S
        mean_B1 = torch.where(mean_S > 0, mean_S, 1.0)[segment_B, None]
        return weighted(credit, torch.where(credit.keep_BT, raw_BT / mean_B1, 1.0)), state

    return Link(
        name="attention_weight",
        stage="weight",
        arguments={"strength": strength, "scope": scope},
        update=update,
        when="update" if scope in ("micro", "mini") else "rollout",
        scope=scope,
        needs=frozenset({"attention_entropy"}),
        adds=False,
    )
