"""What the links that shape an advantage read: entropies, verdicts, and when a link has to run for them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from forkpoint.credit._choice import SOURCES, current_or_recorded
from forkpoint.credit.advantage import judged_rewards
from forkpoint.credit.checks import check_choice
from forkpoint.rollouts import Credit, Forward, Rollouts, right
from forkpoint.scope import Scope, check_scope, segment_sum


def entropies(credit: Credit, rollouts: Rollouts, forward: Forward | None, source: str) -> Tensor:
    """Return the entropy of every token that counts, 0 elsewhere, in the dtype of the credit.

    Raises:
        InputError: an entropy of a token that counts is not finite; the message names the place.
    """
    value_BT = current_or_recorded(credit, rollouts, forward if source == "current" else None, source=source)
    return torch.where(credit.keep_BT, value_BT, 0.0).to(credit.advantage_BT.dtype)


def stage_of(source: str, scope: Scope) -> tuple[Literal["rollout", "update"], frozenset[str]]:
    """Return when a link that reads entropies of `source` over `scope` runs, and what it needs."""
    check_choice("entropy", "source", source, SOURCES)
    check_scope(scope)
    late = source == "current" or scope in ("micro", "mini")
    return "update" if late else "rollout", frozenset({"forward" if source == "current" else "entropy"})


def right_answers(rollouts: Rollouts) -> tuple[Tensor, Tensor]:
    """Return which answers are right and which were judged (with a finite reward), both bool (B,)."""
    judged_B = judged_rewards(rollouts)[1]
    return right(rollouts) & judged_B, judged_B


def pass_rate(rollouts: Rollouts, dtype: torch.dtype) -> Tensor:
    """Return the share of right answers among the judged ones of every answer's group, (B,); 0 where none is."""
    right_B, judged_B = right_answers(rollouts)
    segment_B = torch.unique(rollouts.group_B, return_inverse=True)[1]
    right_S, judged_S = (segment_sum(x.to(dtype), segment_B) for x in (right_B, judged_B))
    return (right_S / judged_S.clamp(min=1))[segment_B]
