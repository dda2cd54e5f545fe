"""Regularisers: terms of the loss that carry gradient through the entropy itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from forkpoint.credit.link import Link
from forkpoint.errors import InputError
from forkpoint.rollouts import Credit, Forward, Rollouts


def entropy_bonus(*, coefficient: float = 0.001) -> Link:
    """Link: reward the entropy of every token that counts.

        loss -= coefficient Σ_t a_t 1[w_t ≠ 0] H_t

    with a_t the coefficients of the policy loss and w_t the token's weight, so bonus and policy term share
    mask and denominator: under the `token` denominator it is the mean entropy of the counted tokens.
    `coefficient=0` changes nothing.

    Args:
        coefficient: in loss per nat; negative values push entropy down.

    Source: arXiv 1602.01783 sec. 4; for RLVR see arXiv 2505.22617 sec. 4.1 (1e-3 does little, 1e-2 explodes).
    """
    if isinstance(coefficient, bool) or not isinstance(coefficient, int | float):
        raise InputError(f"entropy_bonus coefficient is {coefficient!r} and must be a number")

    def regularise(forward: Forward, rollouts: Rollouts, credit: Credit, coefficient_BT: Tensor) -> Tensor:
        counted_BT = (coefficient_BT > 0) & (credit.weight_BT != 0)
        entropy_BT = torch.where(counted_BT, forward.entropy_BT, 0.0)
        return -coefficient * (coefficient_BT * entropy_BT).sum()

    active: dict[str, Any] = {
        "needs": frozenset({"entropy_gradient"}),
        "regularise": regularise,
    }
    return Link(
        name="entropy_bonus",
        stage="regulariser",
        arguments={"coefficient": coefficient},
        when="update",
        **(active if coefficient else {}),
    )
