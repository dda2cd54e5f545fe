"""Importance ratios and their bounds, and how per-token losses become one number."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch

from forkpoint.credit.checks import check_number
from forkpoint.credit.link import Link, State
from forkpoint.errors import InputError, did_you_mean
from forkpoint.rollouts import Credit, Rollouts

DENOMINATORS = ("token", "sequence", "constant", "micro-token")


def clip(*, low: float | None = 0.2, high: float | None = 0.2) -> Link:
    """Link: bound the importance ratio to [1 - low, 1 + high].

    Equal bounds are PPO's; `high > low` is DAPO's clip-higher.

    Args:
        low: in [0, 1]; None leaves the lower side open.
        high: >= 0; None leaves the upper side open.

    Source: arXiv 1707.06347 eq. 7; clip-higher arXiv 2503.14476 eq. 10.
    """
    if low is not None and not 0 <= low <= 1:
        raise InputError(f"clip low is {low} and must be in [0, 1]: the ratio's lower bound is 1 - low")
    if high is not None and high < 0:
        raise InputError(f"clip high is {high} and must be >= 0: the ratio's upper bound is 1 + high")

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        one = torch.ones_like(credit.advantage_BT)
        return dataclasses.replace(
            credit,
            low_BT=None if low is None else one * (1 - low),
            high_BT=None if high is None else one * (1 + high),
        ), state

    return Link(name="clip", stage="clip", arguments={"low": low, "high": high}, update=update)


def dual_clip(*, c: float = 3.0) -> Link:
    """Link: where the advantage is negative, keep the surrogate above c * advantage.

    TRL's `delta` is c, as long as it lies above the upper bound of the ratio.

    Args:
        c: > 1. verl's default is 3, the 80/20 release uses 10.

    Source: arXiv 1912.09729 eq. 5.
    """
    if not c > 1:
        raise InputError(f"dual_clip c is {c} and must be greater than 1")

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        return dataclasses.replace(credit, dual_clip=c), state

    return Link(name="dual_clip", stage="clip", arguments={"c": c}, update=update)


def soft_gate(*, positive: float = 1.0, negative: float = 1.05) -> Link:
    """Link: a sigmoid of the ratio in the place of its bounds, so that no token loses its gradient at once.

        loss = -4/τ sigmoid(τ (r - 1)) A,   slope by log π: -4 p (1 - p) r A,  p = sigmoid(τ (r - 1))

    At r = 1 the gradient is that without any bound; a larger τ falls faster on both sides. As τ tends to 0 the
    gradient tends to -r A, that of no bound at all. Bounds and dual clip of the chain have no effect.

    Args:
        positive: τ > 0 where A > 0.
        negative: τ > 0 where A < 0.

    Source: arXiv 2511.20347 (SAPO).
    """
    check_number("soft_gate", "positive", positive, low=0, open_low=True)
    check_number("soft_gate", "negative", negative, low=0, open_low=True)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        return dataclasses.replace(credit, gate=(float(positive), float(negative))), state

    return Link(name="soft_gate", stage="clip", arguments={"positive": positive, "negative": negative}, update=update)


def sequence_ratio() -> Link:
    """Link: one length-normalised ratio an answer, s_i = exp(mean_t(log π - log π_old)).

    Source: arXiv 2507.18071 eq. 7 (GSPO).
    """

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        return dataclasses.replace(credit, ratio="sequence"), state

    return Link(name="sequence_ratio", stage="ratio", update=update)


def stop_ratio(*, cap: float = 5.0, floor: float | None = None) -> Link:
    """Link: a detached, capped ratio that weighs log π, so that no token loses its gradient.

        loss = -sg(clamp(r, floor, cap)) A log π

    Args:
        cap: > 0, the largest ratio itself (TRL's `epsilon_high`); in verl's convention cap = 1 + ε_high.
        floor: the smallest ratio; None leaves it open, as in the paper's runs.

    Source: arXiv 2506.13585 eqs. 4 and 5 (CISPO).
    """
    if not cap > 0 or (floor is not None and not 0 <= floor <= cap):
        raise InputError(f"stop_ratio needs 0 <= floor <= cap and cap > 0, got floor={floor}, cap={cap}")

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        one = torch.ones_like(credit.advantage_BT)
        return dataclasses.replace(
            credit, ratio="stop", high_BT=one * cap, low_BT=None if floor is None else one * floor
        ), state

    return Link(name="stop_ratio", stage="ratio", arguments={"cap": cap, "floor": floor}, update=update)


def aggregate(
    *,
    denominator: Literal["token", "sequence", "constant", "micro-token"] = "token",
    constant: float | None = None,
) -> Link:
    """Link: how per-token losses become one number; see `forkpoint.loss.coefficients`.

    Args:
        denominator: `token` divides by the counted tokens of the mini-batch (DAPO), `sequence` averages the
            answers' token means (GRPO), `constant` divides every answer's sum by a constant (Dr. GRPO),
            `micro-token` averages over each micro-batch's tokens and weighs micro-batches by their rows (the
            80/20 release).
        constant: the divisor in tokens when `denominator` is `constant`; None takes the longest answer the
            decoder allows, or the longest at hand when that is unknown.

    Raises:
        InputError: an unknown denominator, or a constant that is not positive.
    """
    if denominator not in DENOMINATORS:
        raise InputError(f"unknown denominator {denominator!r}: {did_you_mean(denominator, DENOMINATORS)}")
    if constant is not None and not constant > 0:
        raise InputError(f"aggregate constant is {constant} and must be a positive number of tokens")

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        longest = rollouts.max_tokens or max(rollouts.mask_BT.sum(1).tolist(), default=1)
        divisor = constant if constant is not None else float(max(longest, 1))
        return dataclasses.replace(
            credit, denominator=denominator, constant=divisor if denominator == "constant" else None
        ), state

    return Link(
        name="aggregate",
        stage="aggregation",
        arguments={"denominator": denominator, "constant": constant},
        update=update,
    )
