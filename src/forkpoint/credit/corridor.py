"""An entropy bonus with a corridor around the entropy of earlier steps."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from forkpoint.credit._terms import Seen, term_link
from forkpoint.credit.checks import check_number
from forkpoint.credit.link import Link, State
from forkpoint.credit.statistics import token_mean
from forkpoint.rollouts import EntropyTerm
from forkpoint.scope import segment_sum


def entropy_corridor(
    *,
    gamma: float,
    steps: float,
    coefficient: float = 0.001,
    alpha: float = 0.05,
    low: float = 0.0,
    high: float = 2.0,
    unit: Literal["answer", "turn"] = "answer",
) -> Link:
    """Link: reward entropy, and charge what leaves a corridor around the mean entropy of earlier steps.

        loss -= λ (L_H - β_k L_smooth),   β_k = 1 + exp(-gamma k / k_mid),   k_mid = floor(steps / 2)
        L_H = mean of H_t,   L_smooth = alpha mean of ([low H̄ - H_t]₊ + [H_t - high H̄]₊)

    Both means are taken over the tokens of a unit, then over the units of an answer, then over answers. H̄ is the mean
    of the step means of all earlier steps (rollout batches); in the first step nothing is charged. `coefficient=0`
    changes nothing; `alpha=0` is an entropy bonus under the sequence denominator.

    Args:
        gamma: >= 0; the source does not print its value.
        steps: >= 1, of the whole run, in rollout batches.
        coefficient: λ >= 0, in loss per nat.
        alpha: >= 0, weight of the charge.
        low: >= 0, lower edge in units of H̄.
        high: >= `low`, upper edge.
        unit: `answer`, or `turn`, which needs the number of every token's turn.

    Source: arXiv 2509.22576 eqs. 3 to 6.
    """
    _check("entropy_corridor", coefficient, alpha, low, high)
    check_number("entropy_corridor", "gamma", gamma, low=0)
    check_number("entropy_corridor", "steps", steps, low=1)

    def term(seen: Seen, state: State) -> tuple[EntropyTerm, State]:
        share_BT = _shares(seen, unit)
        state, before = _remember(seen, state, float((share_BT * seen.entropy_BT).sum() / _minis(seen)))
        beta = 1 + math.exp(-gamma * (state["step"] - 1) / max(1, math.floor(steps / 2)))
        middle = math.nan if before is None else before  # comparisons with NaN are false: nothing is charged
        below_BT, above_BT = seen.entropy_BT < low * middle, seen.entropy_BT > high * middle
        slope_BT = -1 + beta * alpha * (above_BT.to(share_BT.dtype) - below_BT.to(share_BT.dtype))
        apart_BT = torch.where(below_BT, low * middle - seen.entropy_BT, 0.0)
        apart_BT = torch.where(above_BT, seen.entropy_BT - high * middle, apart_BT)
        value_BT = share_BT * (beta * alpha * apart_BT - seen.entropy_BT)
        value_S = coefficient * segment_sum(value_BT.sum(1), seen.mini_B)
        return seen.term(value_S, coefficient * share_BT * slope_BT), state

    return term_link(
        "entropy_corridor",
        {
            "gamma": gamma, "steps": steps, "coefficient": coefficient, "alpha": alpha, "low": low, "high": high,
            "unit": unit,
        },
        term,
        active=coefficient > 0,
        init=_start,
        more=frozenset({"turn"} if unit == "turn" else ()),
    )  # fmt: skip


def entropy_corridor_released(
    *, coefficient: float = 0.001, alpha: float = 0.05, low: float = 0.0, high: float = 2.0, scale: float = 1.0
) -> Link:
    """Link: an entropy bonus less a constant for every token outside the corridor, as the released code has it.

        loss -= λ (mean_t H_t - scale mean_t alpha 1[H_t < low H̄ or H_t > high H̄])

    The charge has no gradient: the weights move as under `entropy_bonus` of the same coefficient.

    Args:
        coefficient: λ >= 0, in loss per nat.
        alpha: >= 0, the constant.
        low: >= 0, lower edge in units of H̄, the mean of the step means of all earlier steps.
        high: >= `low`, upper edge.
        scale: >= 0.

    Source: code of arXiv 2509.22576.
    """
    _check("entropy_corridor_released", coefficient, alpha, low, high)
    check_number("entropy_corridor_released", "scale", scale, low=0)

    def term(seen: Seen, state: State) -> tuple[EntropyTerm, State]:
        everyone = torch.zeros_like(seen.mini_B)
        state, before = _remember(seen, state, float(token_mean(seen.entropy_BT, seen.mask_BT, everyone).sum()))
        middle = math.nan if before is None else before
        outside_BT = (seen.entropy_BT < low * middle) | (seen.entropy_BT > high * middle)
        value_BT = scale * alpha * outside_BT.to(seen.entropy_BT.dtype) - seen.entropy_BT
        value_S = coefficient * token_mean(value_BT, seen.mask_BT, seen.mini_B)
        slope_S = -coefficient / seen.tokens_S.clamp(min=1)
        return seen.term(value_S, slope_S[seen.mini_B][:, None]), state

    return term_link(
        "entropy_corridor_released",
        {"coefficient": coefficient, "alpha": alpha, "low": low, "high": high, "scale": scale},
        term,
        active=coefficient > 0,
        init=_start,
    )


def _check(link: str, coefficient: float, alpha: float, low: float, high: float) -> None:
    for name, value in (("coefficient", coefficient), ("alpha", alpha), ("low", low)):
        check_number(link, name, value, low=0)
    check_number(link, "high", high, low=low)


def _start() -> State:
    return {"step": 0, "version": None, "total": 0.0, "sum": 0.0, "count": 0}


def _remember(seen: Seen, state: State, mean: float) -> tuple[dict[str, Any], float | None]:
    """Return the state with this update's mean, and the mean over the earlier steps (None in the first).

    A step is everything that one version of the policy sampled; its mean is that of its updates.
    """
    now = dict(state)
    if seen.rollouts.version != now["version"]:
        if now["count"]:
            now["total"] += now["sum"] / now["count"]
        now.update(step=now["step"] + 1, version=seen.rollouts.version, sum=0.0, count=0)
    if bool(seen.mask_BT.any()):
        now.update(sum=now["sum"] + mean, count=now["count"] + 1)
    return now, now["total"] / (now["step"] - 1) if now["step"] > 1 else None


def _minis(seen: Seen) -> float:
    """Return the number of mini-batches at hand: shares sum to 1 in each."""
    return max(1, int(seen.mini_B.max()) + 1 if seen.mini_B.numel() else 1)


def _shares(seen: Seen, unit: str) -> Tensor:
    """Return every token's share in the mean over units, answers and the mini-batch, (B, T), 0 where it has none."""
    mask_BT, counts_BT = seen.mask_BT, seen.mask_BT.to(seen.entropy_BT.dtype)
    if unit == "answer" or not mask_BT.any():
        inside_BT = counts_BT / mask_BT.sum(1, keepdim=True).clamp(min=1)
    else:
        turn_BT = torch.where(mask_BT, seen.rollouts.extra["turn"], 0).to(torch.int64)
        size_BU = torch.zeros(mask_BT.shape[0], int(turn_BT.max()) + 1, dtype=torch.int64, device=mask_BT.device)
        size_BU = size_BU.scatter_add(1, turn_BT, mask_BT.to(torch.int64))
        units_B1 = (size_BU > 0).sum(1, keepdim=True).clamp(min=1)
        inside_BT = counts_BT / size_BU.gather(1, turn_BT).clamp(min=1) / units_B1
    answers_S = segment_sum(mask_BT.any(1).to(torch.int64), seen.mini_B).clamp(min=1)
    return inside_BT / answers_S[seen.mini_B][:, None]
