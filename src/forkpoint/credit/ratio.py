"""Importance ratios of whole answers as means of order p, and bounds inside such a mean."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import torch

from forkpoint.credit.checks import check_choice, check_number
from forkpoint.credit.link import Link, State
from forkpoint.rollouts import Credit, Rollouts


def mean_ratio(*, order: float = 1.0, bounds: Literal["mean", "tokens"] = "mean") -> Link:
    """Link: one ratio an answer, the mean of order p of its tokens' ratios.

        M_p = (1/n Σ_t r_t^p)^(1/p),   M_0 = exp(1/n Σ_t log r_t)

    The share of a token in the gradient is r_t^p / Σ_s r_s^p: a large p listens to the largest ratios, a negative
    one to the smallest. `order=0` is `sequence_ratio` (GSPO).

    Args:
        order: p, any finite number; sizes below 1e-6 count as 0.
        bounds: `mean` clips M_p once an answer (HölderPO); `tokens` clips every token's ratio before the mean, on
            the side where its advantage would gain from going further (GMPO).

    Source: arXiv 2605.12058 (mean of order p); arXiv 2507.20673 (bounds inside a geometric mean).
    """
    check_number("mean_ratio", "order", order)
    check_choice("mean_ratio", "bounds", bounds, ("mean", "tokens"))

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        return dataclasses.replace(credit, ratio="mean", order=float(order), inner_bounds=bounds == "tokens"), state

    return Link(name="mean_ratio", stage="ratio", arguments={"order": order, "bounds": bounds}, update=update)


def log_clip(*, low: float = 0.4, high: float = 0.4) -> Link:
    """Link: bound the logarithm of the importance ratio to [-low, high].

    For small widths it is `clip` with the same numbers: the bounds are exp(-low) and exp(high).

    Args:
        low: >= 0, in nats; infinite leaves that side open.
        high: >= 0, in nats; infinite leaves that side open.

    Source: arXiv 2507.20673 sec. 4.
    """
    for name, width in (("low", low), ("high", high)):
        if width != math.inf:
            check_number("log_clip", name, width, low=0)
    upper = math.exp(high) if high < 700 else math.inf

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        one_BT = torch.ones_like(credit.advantage_BT)
        return dataclasses.replace(credit, low_BT=one_BT * math.exp(-low), high_BT=one_BT * upper), state

    return Link(name="log_clip", stage="clip", arguments={"low": low, "high": high}, update=update)
