"""Advantages shaped token by token or answer by answer by entropy, and by what a token is for."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor

from forkpoint.credit._reading import entropies, stage_of
from forkpoint.credit.checks import check_number
from forkpoint.credit.link import Link, State
from forkpoint.credit.statistics import answer_mean, standardised
from forkpoint.rollouts import Credit, Forward, Rollouts
from forkpoint.scope import Batching, Scope, segment_sum, segments


def polarity_entropy(
    *,
    alpha: float = 0.2,
    phi: float = 2.0,
    source: Literal["current", "behaviour"] = "behaviour",
    scope: Scope = "rollout",
) -> Link:
    """Link: uncertain tokens get a larger advantage in either direction, certain ones a smaller.

        A_t ← A_t + alpha sign(A_t) clip(z_t, -|A_t| / phi, |A_t| / phi),   z_t = (H_t - μ_H) / σ_H

    The sign is kept while alpha / phi < 1. `alpha=0` changes nothing; where all entropies of the scope are equal,
    z = 0.

    Args:
        alpha: in [0, phi), strength.
        phi: > 0; |z| counts up to |A| / phi.
        source: whose entropy: that of the `behaviour` policy or of the `current` one.
        scope: over which tokens μ_H and σ_H are taken; the sources at hand do not say.
    """
    check_number("polarity_entropy", "phi", phi, low=0, open_low=True)
    check_number("polarity_entropy", "alpha", alpha, low=0, high=phi)
    when, needs = stage_of(source, scope)

    def update(
        credit: Credit, rollouts: Rollouts, *, forward: Forward | None, batching: Batching, state: State, **_: Any
    ) -> tuple[Credit, State]:
        segment_B = segments(scope, group_B=rollouts.group_B, batching=batching)
        score_BT = standardised(entropies(credit, rollouts, forward, source), credit.keep_BT, segment_B)
        bound_BT = credit.advantage_BT.abs() / phi
        push_BT = alpha * credit.advantage_BT.sign() * torch.clamp(score_BT, -bound_BT, bound_BT)
        return dataclasses.replace(credit, advantage_BT=credit.advantage_BT + push_BT), state

    return Link(
        name="polarity_entropy",
        stage="advantage",
        arguments={"alpha": alpha, "phi": phi, "source": source, "scope": scope},
        update=update,
        when=when,
        scope=scope,
        needs=needs,
        adds=False,
    )


def entropy_scale(
    *,
    strength: float = 0.2,
    source: Literal["current", "behaviour"] = "current",
    scope: Scope = "mini",
) -> Link:
    """Link: the advantage grows with the entropy of the token.

        A_t ← A_t (1 + strength z_t),   z_t = (H_t - μ_H) / σ_H

    The sign turns where z < -1 / strength. `strength=0` changes nothing; where all entropies of the scope are equal,
    z = 0.

    Args:
        strength: >= 0.
        source: whose entropy: that of the `current` policy or of the `behaviour` one.
        scope: over which tokens μ_H and σ_H are taken.
    """
    check_number("entropy_scale", "strength", strength, low=0)
    when, needs = stage_of(source, scope)

    def update(
        credit: Credit, rollouts: Rollouts, *, forward: Forward | None, batching: Batching, state: State, **_: Any
    ) -> tuple[Credit, State]:
        segment_B = segments(scope, group_B=rollouts.group_B, batching=batching)
        score_BT = standardised(entropies(credit, rollouts, forward, source), credit.keep_BT, segment_B)
        return dataclasses.replace(credit, advantage_BT=credit.advantage_BT * (1 + strength * score_BT)), state

    return Link(
        name="entropy_scale",
        stage="advantage",
        arguments={"strength": strength, "source": source, "scope": scope},
        update=update,
        when=when,
        scope=scope,
        needs=needs,
        adds=False,
    )


def planning_push(*, alpha: float = 0.2) -> Link:
    """Link: planning tokens are rewarded more in good answers and punished less in bad ones.

        A_t ← A_t + alpha |A_t|      on planning tokens

    `alpha=0`, or an answer without planning tokens, changes nothing.

    Args:
        alpha: >= 0.

    Returns:
        A link that needs `planning`: which tokens belong to planning spans, bool (B, T).
    """
    check_number("planning_push", "alpha", alpha, low=0)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        # On padding the advantage is 0, whatever the mark is.
        push_BT = torch.where(rollouts.extra["planning"].bool(), alpha * credit.advantage_BT.abs(), 0.0)
        return dataclasses.replace(credit, advantage_BT=credit.advantage_BT + push_BT), state

    return Link(
        name="planning_push",
        stage="advantage",
        arguments={"alpha": alpha},
        update=update,
        needs=frozenset({"planning"}),
        adds=False,
    )


def answer_steadiness(entropy_BT: Tensor, keep_BT: Tensor, group_B: Tensor) -> Tensor:
    """Return how sure an answer was, relative to its group.

        Y_i = max(0, 2 - h_i / mean_g h),   h_i the mean entropy of answer i

    The mean over the group counts answers that have tokens, each once.

    Args:
        entropy_BT: float (B, T), finite where `keep_BT`.
        keep_BT: bool (B, T).
        group_B: int64 (B,).

    Returns:
        float (B,); 1 where the group's mean is 0.

    Source: arXiv 2508.11356; the floor at 0 is ours.

    >>> keep = torch.ones(2, 1, dtype=torch.bool)
    >>> answer_steadiness(torch.tensor([[1.0], [3.0]]), keep, torch.tensor([0, 0]))
    tensor([1.5000, 0.5000])
    """
    segment_B = torch.unique(group_B, return_inverse=True)[1]
    mean_B = answer_mean(entropy_BT, keep_BT)
    some = keep_BT.any(1).to(mean_B.dtype)
    count_B = segment_sum(some, segment_B)[segment_B].clamp(min=1)
    typical_B = segment_sum(mean_B, segment_B)[segment_B] / count_B
    steady_B = (2 - mean_B / torch.where(typical_B > 0, typical_B, 1.0)).clamp(min=0)
    return torch.where(typical_B > 0, steady_B, 1.0)


def steadiness_scale(*, source: Literal["current", "behaviour"] = "behaviour", strength: float = 1.0) -> Link:
    """Link: answers that were surer than their siblings learn more, unsure ones less.

        A_i ← A_i (1 + strength (Y_i - 1)),   Y from `answer_steadiness`

    `strength=0` changes nothing, 1 is the paper's.

    Args:
        source: whose entropy: that of the `behaviour` policy or of the `current` one.
        strength: in [0, 1].
    """
    check_number("steadiness_scale", "strength", strength, low=0, high=1)
    when, needs = stage_of(source, "group")

    def update(
        credit: Credit, rollouts: Rollouts, *, forward: Forward | None, state: State, **_: Any
    ) -> tuple[Credit, State]:
        entropy_BT = entropies(credit, rollouts, forward, source)
        steady_B = answer_steadiness(entropy_BT, credit.keep_BT, rollouts.group_B)
        factor_B1 = (1 + strength * (steady_B - 1))[:, None]
        return dataclasses.replace(credit, advantage_BT=credit.advantage_BT * factor_B1), state

    return Link(
        name="steadiness_scale",
        stage="advantage",
        arguments={"source": source, "strength": strength},
        update=update,
        when=when,
        scope="group",
        needs=needs,
        adds=False,
    )


def advantage_bound(*, bound: float) -> Link:
    """Link: no advantage is larger than a bound in size.

        A_t ← clip(A_t, -bound, bound)

    Args:
        bound: > 0, in units of the advantage; infinity changes nothing.
    """
    if bound != float("inf"):
        check_number("advantage_bound", "bound", bound, low=0, open_low=True)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        return dataclasses.replace(credit, advantage_BT=credit.advantage_BT.clamp(-bound, bound)), state

    return Link(name="advantage_bound", stage="advantage", arguments={"bound": bound}, update=update, adds=False)
