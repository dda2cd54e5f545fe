"""What a method would do to every token of a recorded batch in its first update."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from forkpoint.credit.link import Chain, init, run
from forkpoint.loss import coefficients, policy_loss
from forkpoint.rollouts import Credit, Forward, Rollouts, blank_credit
from forkpoint.scope import one_batch


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """The credit of a batch and what it amounts to."""

    credit: Credit
    push_BT: Tensor
    """(B, T): how hard the loss pushes every token's log-prob up, in units of advantage; 0 on padding."""


def push(chain: Chain, rollouts: Rollouts, *, rng: int = 0) -> Pushed:
    """Return the credit a method gives to a batch and how hard it pushes every token.

        push_t = -N ∂L/∂log π(y_t) at π = π_old,   N the number of sampled tokens

    So advantage, weight, selection, denominator and penalties are all in one number: DAPO pushes every token by its
    advantage. The batch is one mini-batch, the current policy is the one that sampled, and links without history
    begin. What pulls on the entropy itself, as a bonus does, is not in it.

    Args:
        chain: the method.
        rollouts: verified rows.
        rng: key of links that draw.

    Raises:
        InputError: the rollouts lack something a link needs.
    """
    logp_BT = rollouts.logp_BT.detach().clone().requires_grad_()
    entropy_BT = rollouts.entropy_BT.detach().clone().requires_grad_()
    forward = Forward(logp_BT=logp_BT, entropy_BT=entropy_BT, extra=rollouts.extra)
    credit, states = run(chain, blank_credit(rollouts), rollouts, init(chain), when="rollout", rng=rng)
    credit, _ = run(chain, credit, rollouts, states, when="update", forward=forward, rng=rng)
    coefficient_BT = coefficients(credit, rollouts, one_batch(rollouts.rows))
    loss = policy_loss(chain, forward, rollouts, credit, coefficient_BT).value
    slope_BT = torch.zeros_like(logp_BT)
    if loss.requires_grad:
        found = torch.autograd.grad(loss, logp_BT, allow_unused=True)[0]
        slope_BT = slope_BT if found is None else found
    return Pushed(credit=credit, push_BT=-slope_BT * rollouts.mask_BT.sum())
