"""What a method would do to every token of a recorded batch in its first update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forkpoint.credit.link import Chain, init, run
from forkpoint.loss import coefficients, policy_loss
from forkpoint.rollouts import Credit, Forward, Rollouts, blank_credit
from forkpoint.scope import one_batch

ENTROPIES = frozenset({"nucleus_entropy"})
"""Columns of `Forward.extra` that are entropies."""


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """The credit of a batch and what it amounts to."""

    credit: Credit
    push_BT: Tensor
    """(B, T): how hard the loss pushes every token's log-prob up, in units of advantage; 0 on padding."""
    pull_BT: Tensor
    """(B, T): how hard it pulls every position's entropy up by itself, in units of advantage a nat; 0 on padding."""


def push(chain: Chain, rollouts: Rollouts, *, rng: int = 0) -> Pushed:
    """Return the credit a method gives to a batch and how hard it pushes every token.

        push_t = -N ∂L/∂log π(y_t),   pull_t = -N ∂L/∂H_t   at π = π_old,   N the number of sampled tokens

    So advantage, weight, selection, denominator and penalties are all in one number: DAPO pushes every token by its
    advantage. What acts on the entropy itself, as a bonus does, or on that of the nucleus, is the pull. The batch is
    one mini-batch, the current policy is the one that sampled, and links without history begin.

    Args:
        chain: the method.
        rollouts: verified rows.
        rng: key of links that draw.

    Raises:
        InputError: the rollouts lack something a link needs.
    """
    logp_BT = rollouts.logp_BT.detach().clone().requires_grad_()
    entropy_BT = rollouts.entropy_BT.detach().clone().requires_grad_()
    leaves = {
        name: rollouts.extra[name].detach().clone().requires_grad_() for name in ENTROPIES & rollouts.extra.keys()
    }
    forward = Forward(logp_BT=logp_BT, entropy_BT=entropy_BT, extra={**rollouts.extra, **leaves})
    credit, states = run(chain, blank_credit(rollouts), rollouts, init(chain), when="rollout", rng=rng)
    credit, _ = run(chain, credit, rollouts, states, when="update", forward=forward, rng=rng)
    coefficient_BT = coefficients(credit, rollouts, one_batch(rollouts.rows))
    loss = policy_loss(chain, forward, rollouts, credit, coefficient_BT).value
    found: Sequence[Tensor | None] = [None] * (2 + len(leaves))
    if loss.requires_grad:
        found = torch.autograd.grad(loss, [logp_BT, entropy_BT, *leaves.values()], allow_unused=True)
    slope_BT, *entropy_slopes = (torch.zeros_like(logp_BT) if part is None else part for part in found)
    tokens = rollouts.mask_BT.sum()
    return Pushed(credit=credit, push_BT=-slope_BT * tokens, pull_BT=-torch.stack(entropy_slopes).sum(0) * tokens)
