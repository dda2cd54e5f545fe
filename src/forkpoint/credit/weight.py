"""Weights: how much more or less a token learns than the others."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from forkpoint.credit._choice import check_finite, current_or_recorded, weighted
from forkpoint.credit.checks import check_choice, check_number
from forkpoint.credit.link import Link, State
from forkpoint.entropy.signals import entropy_change, rough_entropy_change
from forkpoint.rollouts import Credit, Forward, Rollouts
from forkpoint.scope import Batching, Scope, check_scope, segment_sum, segments

FORMS = ("exponential", "linear")
FLOWS = ("one-term", "exact")


def exponential_weight(
    size_BT: Tensor, mask_BT: Tensor, segment_B: Tensor, *, low: float = 0.7, floor: float = 0.0
) -> Tensor:
    """Return weights that fall from 1 to `low` as a size grows from 0 to the largest of its segment.

        λ_t = low^(x_t / max(max x, floor))

    `low=1` gives 1 everywhere.

    Args:
        size_BT: float (B, T), x >= 0.
        mask_BT: bool (B, T).
        segment_B: int64 (B,).
        low: in (0, 1].
        floor: >= 0; where all sizes are small, weights stay close to 1.

    Returns:
        float (B, T) in [low, 1]; 1 outside the mask and where the segment's largest size is 0.

    Source: arXiv 2510.10150 v4 (STEER), λ = exp(-α |Ω| / max |Ω|) with α = -ln low; `floor` is its code's.
    """
    largest_B1 = segment_extreme(size_BT, mask_BT, segment_B, "amax").clamp(min=floor)
    # The exponent is written so that low = 1 is exactly 1 and the largest size exactly low.
    part_BT = torch.where(mask_BT & (largest_B1 > 0), size_BT / largest_B1, 0.0)
    return torch.pow(torch.full_like(part_BT, low), part_BT)


def linear_weight(
    size_BT: Tensor, mask_BT: Tensor, segment_B: Tensor, *, low: float = 0.8, high: float = 1.2
) -> Tensor:
    """Return weights that fall in a line from `high` at the smallest size of the segment to `low` at the largest.

        λ_t = high - (high - low) (x_t - min x) / (max x - min x)

    Where all sizes are equal every weight is (low + high)/2.

    Args:
        size_BT: float (B, T).
        mask_BT: bool (B, T).
        segment_B: int64 (B,).
        low: >= 0.
        high: >= low.

    Returns:
        float (B, T) in [low, high]; 1 outside the mask.

    Source: the linear script of the released code of arXiv 2510.10150 (STEER).
    """
    smallest_B1 = segment_extreme(size_BT, mask_BT, segment_B, "amin")
    span_B1 = segment_extreme(size_BT, mask_BT, segment_B, "amax") - smallest_B1
    part_BT = torch.where(span_B1 > 0, (size_BT - smallest_B1) / span_B1, 0.5)
    return torch.where(mask_BT, high - (high - low) * part_BT, 1.0)


def segment_extreme(value_BT: Tensor, mask_BT: Tensor, segment_B: Tensor, which: Literal["amax", "amin"]) -> Tensor:
    """Return the largest or smallest masked value of every row's segment, (B, 1); 0 where there is none."""
    if value_BT.numel() == 0:
        return value_BT.new_zeros(value_BT.shape[0], 1)
    worst = -torch.inf if which == "amax" else torch.inf
    row_B = torch.where(mask_BT, value_BT, worst)
    row_B = row_B.amax(1) if which == "amax" else row_B.amin(1)
    found_S = torch.zeros_like(row_B).scatter_reduce(0, segment_B, row_B, which, include_self=False)
    found_B = found_S[segment_B]
    return torch.where(found_B.isinf(), 0.0, found_B)[:, None]


def steer(
    *,
    form: Literal["exponential", "linear"] = "exponential",
    flow: Literal["paper", "exact"] = "paper",
    low: float = 0.7,
    high: float = 1.2,
    floor: float = 0.0,
    scope: Scope = "mini",
) -> Link:
    """Link: tokens whose update would change the entropy most weigh least.

        exponential:  λ_t = low^(|Ω_t| / max(max |Ω|, floor))
        linear:       λ_t = high - (high - low) (|Ω_t| - min |Ω|) / (max |Ω| - min |Ω|)

        paper:  Ω_t = A r (1 - π_y) (log π_y + H),  r = π/π_old
        exact:  Ω_t = -A {π_y (log π_y + H) - Σ_k π_k² (log π_k + H)}

    The weight multiplies the surrogate. The paper's Ω lacks a factor π_y and the sum over actions, so it takes
    rare tokens for larger movers than they are. `low=1` (and `high=1`) changes nothing. A value of Ω that is not
    finite counts as 0.

    Args:
        form: how a size becomes a weight.
        flow: `paper` reads the current policy's log-prob and the recorded entropy; `exact` needs
            `sampled_flow` and reads the behaviour policy alone.
        low: in (0, 1], the smallest weight.
        high: >= 1, the largest weight of the linear form; the exponential one ends at 1.
        floor: >= 0, see `exponential_weight`; the released code has 0.02.
        scope: over which tokens the extremes are taken; `micro` is the released code's.

    Raises:
        InputError: an argument outside its range, or an entropy or log-prob that is not finite.

    Source: arXiv 2510.10150 v4 (STEER).
    """
    check_number("steer", "low", low, low=0, high=1, open_low=True)
    check_number("steer", "high", high, low=1)
    check_number("steer", "floor", floor, low=0)
    check_scope(scope)
    check_choice("steer", "form", form, FORMS)
    check_choice("steer", "flow", flow, ("paper", "exact"))

    def update(
        credit: Credit, rollouts: Rollouts, *, forward: Forward | None, batching: Batching, state: State, **_: Any
    ) -> tuple[Credit, State]:
        if low == 1 and (form == "exponential" or high == 1):
            return credit, state
        entropy_BT = current_or_recorded(credit, rollouts, None)
        if flow == "exact":
            change_BT = _recorded_change(credit, rollouts, entropy_BT, "exact")
        else:
            assert forward is not None  # noqa: S101 - checked by check_needs
            check_finite(forward.logp_BT, credit.keep_BT, "current", of="log-prob")
            change_BT = rough_entropy_change(forward.logp_BT, rollouts.logp_BT, entropy_BT, credit.advantage_BT)
        size_BT = torch.where(credit.keep_BT & change_BT.isfinite(), change_BT.abs(), 0.0)
        segment_B = segments(scope, group_B=rollouts.group_B, batching=batching)
        if form == "exponential":
            factor_BT = exponential_weight(size_BT, credit.keep_BT, segment_B, low=low, floor=floor)
        else:
            factor_BT = linear_weight(size_BT, credit.keep_BT, segment_B, low=low, high=high)
        return weighted(credit, factor_BT), state

    return Link(
        name="steer",
        stage="weight",
        arguments={"form": form, "flow": flow, "low": low, "high": high, "floor": floor, "scope": scope},
        update=update,
        when="update" if flow == "paper" or scope in ("micro", "mini") else "rollout",
        scope=scope,
        needs=frozenset({"entropy", "forward"} if flow == "paper" else {"entropy", "sampled_flow"}),
        adds=False,
    )


def balance(rise: Tensor, fall: Tensor) -> Tensor:
    """Return the λ in [-1, 1] with which (1 + λ) rise = (1 - λ) fall; 0 where both are 0.

        λ = (fall - rise) / (fall + rise)

    Args:
        rise: sum of the positive changes, >= 0.
        fall: sum of the magnitudes of the negative ones, >= 0.

    Source: arXiv 2605.11491 (OPEFO).

    >>> balance(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([3.0, 0.0, 0.0]))
    tensor([ 0.5000,  0.0000, -1.0000])
    """
    total = fall + rise
    return torch.where(total > 0, (fall - rise) / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0)


def balance_entropy_flow(
    *,
    flow: Literal["one-term", "exact"] = "one-term",
    strength: float | None = None,
    limit: float = 1.0,
    scope: Scope = "mini",
) -> Link:
    """Link: tokens that raise entropy and tokens that lower it are weighted so that neither side wins.

        w_t = 1 + λ where Δ_t > 0,  1 - λ where Δ_t < 0,  1 elsewhere
        λ = (Σ_{Δ<0} |Δ| - Σ_{Δ>0} Δ) / Σ |Δ|

    With that λ the first-order change of entropy of the whole scope is 0. It holds for one update a rollout batch:
    log-prob and entropy are the behaviour policy's. `limit=0` or `strength=0` changes nothing. Where one side is
    empty |λ| is 1 and the other side would be silenced: `limit` bounds it.

    Args:
        flow: `one-term` needs nothing further and can have the wrong sign; `exact` needs `sampled_flow`.
        strength: a fixed λ in [-1, 1]; None solves for it.
        limit: in [0, 1], the largest |λ|.
        scope: over which tokens the flow is balanced.

    Raises:
        InputError: an argument outside its range, or an entropy or log-prob that is not finite.

    Source: arXiv 2605.11491 (OPEFO); see `forkpoint.entropy.signals.entropy_change`.
    """
    check_choice("balance_entropy_flow", "flow", flow, FLOWS)
    check_number("balance_entropy_flow", "limit", limit, low=0, high=1)
    if strength is not None:
        check_number("balance_entropy_flow", "strength", strength, low=-1, high=1)
    check_scope(scope)

    def update(
        credit: Credit, rollouts: Rollouts, *, batching: Batching, state: State, **_: Any
    ) -> tuple[Credit, State]:
        if limit == 0 or strength == 0:
            return credit, state
        entropy_BT = current_or_recorded(credit, rollouts, None)
        change_BT = _recorded_change(credit, rollouts, entropy_BT, flow)
        if strength is None:
            segment_B = segments(scope, group_B=rollouts.group_B, batching=batching)
            rise_S, fall_S = (segment_sum(x.clamp(min=0).sum(1), segment_B) for x in (change_BT, -change_BT))
            side_B1 = balance(rise_S, fall_S)[segment_B, None].clamp(-limit, limit)
        else:
            side_B1 = torch.full_like(change_BT[:, :1], max(-limit, min(limit, strength)))
        return weighted(credit, 1 + side_B1 * change_BT.sign()), state

    return Link(
        name="balance_entropy_flow",
        stage="weight",
        arguments={"flow": flow, "strength": strength, "limit": limit, "scope": scope},
        update=update,
        when="update" if scope in ("micro", "mini") else "rollout",
        scope=scope,
        needs=frozenset({"entropy"} if flow == "one-term" else {"entropy", "sampled_flow"}),
        adds=False,
    )


def _recorded_change(credit: Credit, rollouts: Rollouts, entropy_BT: Tensor, flow: str) -> Tensor:
    """Return `entropy_change` of the behaviour policy, 0 where a token does not count."""
    check_finite(rollouts.logp_BT, credit.keep_BT, "behaviour", of="log-prob")
    mean_BT = None if flow != "exact" else rollouts.extra["sampled_flow"]
    if mean_BT is not None:
        check_finite(mean_BT, credit.keep_BT, "recorded", of="sampled_flow")
    change_BT = entropy_change(rollouts.logp_BT, entropy_BT, credit.advantage_BT, mean_BT)
    return torch.where(credit.keep_BT, change_BT, 0.0)
