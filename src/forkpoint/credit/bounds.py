"""Bounds of the ratio that change from token to token, and what happens beyond them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from forkpoint.credit._reading import entropies
from forkpoint.credit.checks import check_number
from forkpoint.credit.link import Link, State
from forkpoint.credit.redistribute import entropy_position
from forkpoint.rollouts import Credit, Forward, Rollouts
from forkpoint.scope import Batching, Scope, check_scope, segments


def scaled_bound(*, low: bool = False, high: bool = True) -> Link:
    """Link: beyond a bound of the ratio the gradient is scaled by the bound instead of lost.

        upper bound = (1 + ε_h) r / sg(r),   so that beyond it  ∇(-min(r A, bound A)) = -(1 + ε_h) A ∇log π

    The value of the loss stays that of the plain clip. With both arguments false nothing changes; without bounds it
    has no effect.

    Args:
        low: at the lower bound.
        high: at the upper bound.

    Source: arXiv 2510.14545 (upper bound).
    """

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        everywhere_BT = torch.ones_like(credit.keep_BT)
        return dataclasses.replace(
            credit,
            scaled_low_BT=everywhere_BT if low else credit.scaled_low_BT,
            scaled_high_BT=everywhere_BT if high else credit.scaled_high_BT,
        ), state

    return Link(name="scaled_bound", stage="clip", arguments={"low": low, "high": high}, update=update)


def entropy_clip(
    *, alpha: float = 1.0, quantile: float = 0.8, scope: Scope = "mini", released_sign: bool = False
) -> Link:
    """Link: certain tokens may fall further, uncertain tokens may rise further, before they are clipped.

        ε_l,t = ε_l (1 - alpha h_t)   where h_t <= 0
        ε_h,t = ε_h (1 + alpha h_t)   where h_t > 0

    ε_l and ε_h are the bounds that the chain has set so far, h is the token's place around a quantile of the current
    entropies, in [-1, 1] (`forkpoint.credit.redistribute.entropy_position`). The lower bound stays >= 0; an open
    bound stays open. `alpha=0` changes nothing.

    Args:
        alpha: in [0, 1].
        quantile: in [0, 1], the entropy at which h = 0.
        scope: over which tokens quantile and extremes are taken; the released code takes the micro-batch.
        released_sign: take h >= 0 for certain tokens too, as the released code does: then no lower bound moves.

    Source: arXiv 2509.16591, the asymmetric clip among eqs. 5 to 13.
    """
    check_number("entropy_clip", "alpha", alpha, low=0, high=1)
    check_number("entropy_clip", "quantile", quantile, low=0, high=1)
    check_scope(scope)

    def update(
        credit: Credit, rollouts: Rollouts, *, forward: Forward | None, batching: Batching, state: State, **_: Any
    ) -> tuple[Credit, State]:
        segment_B = segments(scope, group_B=rollouts.group_B, batching=batching)
        place_BT = entropy_position(
            entropies(credit, rollouts, forward, "current"), credit.keep_BT, segment_B,
            quantile=quantile, released_sign=released_sign,
        )  # fmt: skip
        low_BT, high_BT = credit.low_BT, credit.high_BT
        if low_BT is not None:
            wider_BT = (1 - (1 - low_BT) * (1 - alpha * place_BT)).clamp(min=0)
            low_BT = torch.where(place_BT < 0, wider_BT, low_BT)
        if high_BT is not None:
            wider_BT = 1 + (high_BT - 1) * (1 + alpha * place_BT)
            high_BT = torch.where(place_BT > 0, wider_BT, high_BT)
        return dataclasses.replace(credit, low_BT=low_BT, high_BT=high_BT), state

    return Link(
        name="entropy_clip",
        stage="clip",
        arguments={"alpha": alpha, "quantile": quantile, "scope": scope, "released_sign": released_sign},
        update=update,
        when="update",
        scope=scope,
        needs=frozenset({"forward"}),
        adds=False,
    )
