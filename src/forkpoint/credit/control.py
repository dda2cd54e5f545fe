"""Controllers: numbers that follow what the run measures. What they remember is the state of a link."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from forkpoint.credit._choice import DENOMINATORS, choose, segment_quantile
from forkpoint.credit._reading import entropies, right_answers, stage_of
from forkpoint.credit.advantage import group_normalised, judged_rewards, spread
from forkpoint.credit.checks import check_choice, check_number
from forkpoint.credit.link import Link, State
from forkpoint.errors import InputError
from forkpoint.rollouts import Credit, Forward, Rollouts
from forkpoint.scope import Batching

MEASURES = ("entropy", "surprisal")


def running(old: float | None, new: float, decay: float) -> float:
    """Return decay * old + (1 - decay) * new, and `new` itself where there is nothing before.

    >>> running(None, 3.0, 0.9), running(1.0, 3.0, 0.5)
    (3.0, 2.0)
    """
    return new if old is None else decay * old + (1 - decay) * new


def running_top_entropy(
    *,
    share: float = 0.2,
    decay: float = 0.9,
    source: Literal["current", "behaviour"] = "current",
    scope: Literal["mini", "rollout"] = "mini",
    denominator: Literal["selected", "all"] = "selected",
) -> Link:
    """Link: tokens learn whose entropy reaches a running quantile, so the share may differ from batch to batch.

        τ ← decay τ + (1 - decay) Q_{1-share}(H),   keep_t = [H_t >= τ]

    The first batch sets τ to its own quantile. `decay=0` is `top_entropy` with `ties="threshold"`. A batch without
    tokens leaves τ alone. τ is the state, and is logged as `credit/threshold`.

    Args:
        share: in (0, 1], of the tokens of a typical batch.
        decay: in [0, 1), how slowly the threshold follows.
        source: whose entropy: that of the `current` policy or of the `behaviour` one.
        scope: over which tokens the quantile is taken.
        denominator: `selected` drops the other tokens from the denominator, `all` silences them and keeps them in it.
    """
    check_number("running_top_entropy", "share", share, low=0, high=1, open_low=True)
    check_number("running_top_entropy", "decay", decay, low=0, high=1)
    if decay == 1:
        raise InputError("running_top_entropy decay is 1, so the threshold would never move: give less than 1")
    check_choice("running_top_entropy", "scope", scope, ("mini", "rollout"))
    check_choice("running_top_entropy", "denominator", denominator, DENOMINATORS)
    when, needs = stage_of(source, scope)

    def update(
        credit: Credit, rollouts: Rollouts, *, forward: Forward | None, batching: Batching, state: State, **_: Any
    ) -> tuple[Credit, State]:
        entropy_BT = entropies(credit, rollouts, forward, source)
        if not bool(credit.keep_BT.any()):
            return credit, state
        one_B = torch.zeros_like(rollouts.group_B)
        # The whole span at hand is one mini-batch, or the rollout batch.
        batch = float(segment_quantile(entropy_BT, credit.keep_BT, 1 - share, one_B)[0])
        threshold = running(state["threshold"], batch, decay)
        chosen_BT = credit.keep_BT & (entropy_BT >= threshold)
        return choose(credit, chosen_BT, denominator), _thresholds(threshold)

    return Link(
        name="running_top_entropy",
        stage="selection",
        arguments={"share": share, "decay": decay, "source": source, "scope": scope, "denominator": denominator},
        update=update,
        when=when,
        scope=scope,
        needs=needs,
        drops=denominator == "selected",
        adds=False,
        init=lambda: {"threshold": None},
    )


def _thresholds(value: float) -> State:
    return {"threshold": value, "metrics": {"credit/threshold": value}}


def temperature_towards(entropy: float, *, target: float, high: float, low: float) -> float:
    """Return the temperature whose samples push the entropy towards a target.

        T = high if H <= target else low

    Samples hotter than the policy, learned from where they are right, raise its entropy; cooler ones lower it.

    Source: arXiv 2510.08141, with the comparison of its code (the paper's is strict).

    >>> temperature_towards(0.3, target=0.5, high=1.2, low=0.8), temperature_towards(0.7, target=0.5, high=1.2, low=0.8)
    (1.2, 0.8)
    """
    return high if entropy <= target else low


def temperature_control(
    *,
    target: float = 0.5,
    high: float = 1.2,
    low: float = 0.8,
    measure: Literal["entropy", "surprisal"] = "surprisal",
) -> Link:
    """Link: measures the policy's entropy and says at which temperature the next extra rows should be sampled.

        T_next = high if H <= target else low      H the mean over the tokens sampled at the policy's own temperature

    The credit is not changed. State and log hold `temperature` (for the next batch, `high` before the first) and
    `entropy`; whoever samples reads them there.

    Args:
        target: H* >= 0 in nats.
        high: > 0, temperature that raises the entropy.
        low: > 0, temperature that lowers it.
        measure: `surprisal`, the mean of -log π_old as in the released code, or `entropy`, the mean recorded entropy.
    """
    for name, value in (("high", high), ("low", low)):
        check_number("temperature_control", name, value, low=0, open_low=True)
    check_number("temperature_control", "target", target, low=0)
    check_choice("temperature_control", "measure", measure, MEASURES)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        own_BT = credit.keep_BT & ~_explored(rollouts)[:, None]
        if not bool(own_BT.any()):
            return credit, state
        value_BT = -rollouts.logp_BT if measure == "surprisal" else rollouts.entropy_BT
        entropy = float(torch.where(own_BT, value_BT, 0.0).double().sum() / own_BT.sum())
        temperature = temperature_towards(entropy, target=target, high=high, low=low)
        metrics = {"control/entropy": entropy, "control/temperature": temperature}
        return credit, {"temperature": temperature, "entropy": entropy, "metrics": metrics}

    return Link(
        name="temperature_control",
        stage="controller",
        arguments={"target": target, "high": high, "low": low, "measure": measure},
        update=update,
        scope="rollout",
        needs=frozenset({"entropy"} if measure == "entropy" else ()),
        adds=False,
        init=lambda: {"temperature": high, "entropy": None},
    )


def _explored(rollouts: Rollouts) -> Tensor:
    explore_B = rollouts.extra.get("explore")
    return torch.zeros_like(rollouts.group_B, dtype=torch.bool) if explore_B is None else explore_B.bool()


def explored_advantage(*, alpha: float = 1.0, std: bool = True, eps: float = 1e-6) -> Link:
    """Link: the group advantage, and plain REINFORCE on the rows sampled at another temperature.

        A_i = (R_i - μ_g) / (σ_g + eps)      for the policy's own rows; they alone make μ_g and σ_g
        A_i = alpha 1[right]                 for the rows that `explore` marks

    Without such rows it is `group_advantage`.

    Args:
        alpha: >= 0, weight of the extra rows; `alpha=0` leaves them in the denominator without force.
        std: divide by the group's standard deviation.
        eps: >= 0, added to it.

    Returns:
        A link that needs `explore`: which rows were sampled at another temperature, bool (B,).
    """
    check_number("explored_advantage", "alpha", alpha, low=0)
    check_number("explored_advantage", "eps", eps, low=0)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        reward_B, judged_B = judged_rewards(rollouts)
        explore_B = _explored(rollouts)
        own_B = group_normalised(reward_B, rollouts.group_B, judged_B & ~explore_B, std=std, eps=eps)
        right_B = right_answers(rollouts)[0]
        advantage_B = torch.where(explore_B, alpha * right_B.to(own_B.dtype), own_B)
        return spread(credit, rollouts, advantage_B, judged_B), state

    return Link(
        name="explored_advantage",
        stage="advantage",
        arguments={"alpha": alpha, "std": std, "eps": eps},
        update=update,
        scope="group",
        needs=frozenset({"reward", "explore"}),
    )
