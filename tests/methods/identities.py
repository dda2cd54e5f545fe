"""What every method reduces to: the special case, its parent, and what of them must be equal.

A test file of `tests/methods` may hold rows of its own methods in `IDENTITIES`; the rest stands in `TABLE`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from forkpoint import methods as m
from forkpoint.credit import Chain, Link, aggregate, chain, group_advantage, stop_ratio
from forkpoint.credit import entropy_bonus as bonus
from forkpoint.credit.advantage import group_normalised, judged_rewards, spread
from forkpoint.credit.redistribute import token_group_advantage
from forkpoint.rollouts import Forward, Rollouts

Change = Callable[[Rollouts, Forward], tuple[Rollouts, Forward]]
INF = math.inf


def as_is(rollouts: Rollouts, forward: Forward) -> tuple[Rollouts, Forward]:
    """Change nothing."""
    return rollouts, forward


@dataclass(frozen=True, kw_only=True)
class Identity:
    """`special` is `parent` on batches changed by `change`."""

    special: Callable[[], Chain]
    parent: Callable[[], Chain]
    of: str = "learning"
    """`learning`: value and both gradients; `gradient`: by log-prob; `entropy gradient`; `advantage`; `direction`:
    advantages up to one factor a group, or with `batch direction` one factor for all."""
    factor: float = 1.0
    """The special case is that many times the parent."""
    change: Change = as_is


def same(special: Callable[[], Chain], parent: Callable[[], Chain], of: str = "learning", **others) -> Identity:
    """Return an identity."""
    return Identity(special=special, parent=parent, of=of, **others)


def replaced(**fields) -> Change:
    """Return the change that sets fields of the rollouts, given as functions of them."""
    return lambda rollouts, forward: (
        dataclasses.replace(rollouts, **{name: value(rollouts) for name, value in fields.items()}), forward
    )  # fmt: skip


def rewards(*values: float) -> Change:
    """Return the change that sets the rewards."""
    return replaced(reward_B=lambda r: torch.tensor(values, dtype=r.reward_B.dtype))


def extra(**columns) -> Change:
    """Return the change that sets extra columns, given as functions of the rollouts."""
    return replaced(extra=lambda r: {**r.extra, **{name: value(r) for name, value in columns.items()}})


def on_policy(rollouts: Rollouts, forward: Forward) -> tuple[Rollouts, Forward]:
    """The first update after sampling: every ratio is 1."""
    return rollouts, dataclasses.replace(forward, logp_BT=rollouts.logp_BT)


def inside(rollouts: Rollouts, forward: Forward) -> tuple[Rollouts, Forward]:
    """No ratio leaves the bounds."""
    moved_BT = (forward.logp_BT - rollouts.logp_BT).clamp(-0.2, 0.2)
    return rollouts, dataclasses.replace(forward, logp_BT=rollouts.logp_BT + moved_BT)


def equal_entropies(rollouts: Rollouts, forward: Forward) -> tuple[Rollouts, Forward]:
    """Every entropy is 0.7."""
    level_BT = torch.full_like(rollouts.entropy_BT, 0.7) * rollouts.mask_BT
    return dataclasses.replace(rollouts, entropy_BT=level_BT), dataclasses.replace(forward, entropy_BT=level_BT)


def four_tokens_each(rollouts: Rollouts, forward: Forward) -> tuple[Rollouts, Forward]:
    """Answers of equal length."""
    mask_BT = (torch.arange(rollouts.mask_BT.shape[1]) < 4).expand_as(rollouts.mask_BT)
    filled = {
        name: torch.where(rollouts.mask_BT, getattr(rollouts, name), -0.4 + 0.1 * torch.rand(rollouts.mask_BT.shape))
        for name in ("logp_BT", "entropy_BT")
    }
    rollouts = dataclasses.replace(rollouts, mask_BT=mask_BT, **filled)
    return rollouts, dataclasses.replace(forward, logp_BT=rollouts.logp_BT + 0.01, entropy_BT=rollouts.entropy_BT.abs())


def pairs(rollouts: Rollouts) -> torch.Tensor:
    """Return groups of two answers."""
    return torch.arange(rollouts.rows) // 2


def four_problems(rollouts: Rollouts) -> tuple:
    """Return prompts for them."""
    return tuple(dataclasses.replace(rollouts.prompts[0], id=f"problem-{i}") for i in range(4))


def after(first: Link, parent: Chain) -> Chain:
    """Return the parent with another advantage."""
    return chain(first, *parent.links[1:])


def open_bounds(method: Callable[..., Chain]) -> Callable[[], Chain]:
    """Return the method without a clip."""
    return lambda: method(clip_low=1.0, clip_high=INF)


def reinforce(method: Callable[..., Chain]) -> Callable[[], Chain]:
    """Return the method's advantage and aggregation with the loss -A log π."""
    return lambda: chain(*(x for x in method().links if x.stage != "clip"), stop_ratio(cap=1.0, floor=1.0))


def with_windows(width: int) -> Link:
    """Link: tokens without a window of `width` tokens drop out."""

    def update(credit, rollouts, *, state, **_):
        left_BT = rollouts.mask_BT.flip(1).cumsum(1).flip(1)
        return dataclasses.replace(credit, keep_BT=credit.keep_BT & (left_BT >= width)), state

    return Link(name="with_windows", stage="selection", update=update, drops=True)


def population_advantage() -> Link:
    """Link: GRPO's advantage with the deviation of the population and nothing added to it."""

    def update(credit, rollouts, *, state, **_):
        reward_B, judged_B = judged_rewards(rollouts)
        return spread(
            credit, rollouts, group_normalised(reward_B, rollouts.group_B, judged_B, eps=0.0, correction=0), judged_B
        ), state

    return Link(name="population_advantage", stage="advantage", update=update, scope="group")


ONE_WRONG = rewards(1, 1, 1, 0, 0, 1, 1, 1)
# Halves by length: answers 3 and 1, 2 and 0 | 6 and 7, 5 and 4.
EVEN_HALVES = rewards(0, 0, 1, 1, 0, 1, 1, 0)
FEW_RIGHT = rewards(1, 0, 0, 0, 0, 1, 1, 0)
ONLY_RIGHT = rewards(1, 1, 1, 1, 1, 1, 1, 1)
# Groups of one deviation whose means lie so far apart that the batch has it, too: 8 d² = SS (7/3 - 2).
SPREAD = 2 * math.sqrt(2.75 * (7 / 3 - 2) / 8)
OF_BATCH = rewards(1, 0, 0, 2, 1 + SPREAD, SPREAD, SPREAD, 2 + SPREAD)

TABLE: dict[str, list[Identity]] = {
    "adaptive_entropy": [
        same(lambda: m.adaptive_entropy(start=0, delta=0), lambda: m.dapo(clip_high=0.2)),
        same(
            lambda: m.adaptive_entropy(target=1e9, start=0.3, delta=0),
            lambda: chain(m.dapo(clip_high=0.2), bonus(coefficient=0.3)),
        ),
    ],
    "aepo": [same(m.aepo, m.grpo, change=extra(explore=lambda r: torch.zeros(r.rows, dtype=torch.bool)))],
    "agentic_aepo": [same(lambda: m.agentic_aepo(strength=0), m.dapo, change=inside)],
    "ares_kl": [same(lambda: m.ares_kl(coefficient=0), lambda: m.dapo(clip_high=0.3, dual=3.0))],
    "ares_windows": [
        same(lambda: m.ares_windows(start=-1, decay=1), lambda: chain(m.dapo(), with_windows(4))),
        same(lambda: m.ares_windows(width=1, start=-1, decay=1), m.dapo),
    ],
    "window_forking": [
        same(lambda: m.window_forking(width=1), m.forking), same(lambda: m.window_forking(share=1), m.dapo)
    ],
    "attention_shift": [same(lambda: m.attention_shift(start=0, end=0, steps=3), m.dapo)],
    "canon": [
        same(m.canon, m.rloo, "advantage", change=replaced(group_B=pairs, prompts=four_problems,
             sample_B=lambda r: torch.arange(r.rows) % 2)),
        same(lambda: m.canon(metric="length", inter=0.3), m.dr_grpo, "advantage", change=EVEN_HALVES),
    ],
    "cispo": [
        same(m.cispo, m.dapo, "gradient", change=on_policy),
        same(lambda: m.cispo(cap=0.1), reinforce(m.dapo), factor=0.1),
    ],
    "cispo_verl": [
        same(lambda: m.cispo_verl(clip_low=0.3, clip_high=0.1), lambda: m.cispo(cap=1.1, floor=0.7)),
        same(m.cispo_verl, lambda: m.cispo(cap=1.2, floor=0.0)),
    ],
    "clip_cov": [same(lambda: m.clip_cov(share=0), lambda: m.dapo(clip_low=1.0, clip_high=1.0))],
    "clip_higher": [
        same(lambda: m.clip_higher(clip_high=0.2), m.grpo),
        same(lambda: chain(m.clip_higher(), aggregate(denominator="token")), m.dapo),
    ],
    "dapo": [same(lambda: chain(m.dapo(clip_high=0.2), aggregate(denominator="sequence")), m.grpo)],
    "delta": [
        same(lambda: m.delta(temperature=1.0, low=1, high=1), m.dapo),
        same(lambda: m.delta(temperature=1e30), m.dapo),
    ],
    "dual_clip": [same(lambda: m.dual_clip(c=INF), m.grpo)],
    "eapo": [same(lambda: m.eapo(alpha=0), m.dapo), same(m.eapo, m.dapo, change=equal_entropies)],
    "edas": [same(lambda: m.edas(alpha=0, beta=0), m.dapo), same(m.edas, m.dapo, change=ONE_WRONG)],
    "empg": [same(lambda: m.empg(k=0, zeta=0, centre=False), m.dapo)],
    "entropy_bonus": [same(lambda: m.entropy_bonus(coefficient=0), m.dapo)],
    "epo": [
        same(lambda: m.epo(gamma=1.0, steps=9, coefficient=0), m.grpo),
        same(
            lambda: m.epo(gamma=1.0, steps=9, coefficient=0.3, alpha=0), lambda: chain(m.grpo(), bonus(coefficient=0.3))
        ),
    ],
    "epo_released": [
        same(lambda: m.epo_released(coefficient=0.3), m.grpo, "gradient"),
        same(lambda: m.epo_released(coefficient=0.3), lambda: m.entropy_bonus(coefficient=0.3), "entropy gradient"),
        same(lambda: m.epo_released(coefficient=0), m.grpo),
    ],
    "ettrl": [
        same(m.ettrl, m.grpo, change=equal_entropies), same(lambda: m.ettrl(form="bound", bound=INF), m.grpo)
    ],
    "forking": [same(lambda: m.forking(share=1), m.dapo)],
    "gdpo": [same(lambda: m.gdpo(batch=False), lambda: after(group_advantage(eps=1e-4), m.grpo()))],
    "gmpo": [
        same(lambda: m.gmpo(low=INF, high=INF), open_bounds(m.gspo)), same(m.gmpo, m.grpo, "gradient", change=on_policy)
    ],
    "gmts": [same(lambda: m.gmts(share=1), m.dapo)],
    "grpo": [same(lambda: chain(m.grpo(std=False), aggregate(denominator="constant")), m.dr_grpo)],
    "dr_grpo": [same(m.dr_grpo, lambda: chain(m.grpo(std=False), aggregate(denominator="constant")))],
    "grpo_kl": [same(lambda: m.grpo_kl(coefficient=0), m.grpo)],
    "gspo": [
        same(m.gspo, m.grpo, "gradient", change=on_policy),
        same(lambda: m.gspo(clip_low=0.1, clip_high=0.1),
             lambda: m.holder(start=0, stop=0, clip_low=0.1, clip_high=0.1)),
    ],
    "hapo": [
        same(lambda: m.hapo(alpha=0, beta=0), lambda: after(token_group_advantage(), m.dapo(dual=10.0))),
        same(lambda: m.hapo(alpha=0, beta=0), m.dapo, "direction", change=four_tokens_each),
    ],
    "hapo_clip": [same(lambda: m.hapo_clip(alpha=0), m.dapo)],
    "hicra": [
        same(lambda: m.hicra(alpha=0), lambda: m.grpo(std=False, clip_high=0.28)),
        same(m.hicra, lambda: m.grpo(std=False, clip_high=0.28),
             change=extra(planning=lambda r: torch.zeros_like(r.mask_BT))),
    ],
    "hidden_align": [same(lambda: m.hidden_align(coefficient=0), m.dapo)],
    "holder": [
        same(lambda: m.holder(start=0, stop=0), lambda: m.gspo(clip_low=0.2, clip_high=0.2)),
        same(lambda: m.holder(start=1, stop=1, clip_low=1.0, clip_high=INF), open_bounds(m.grpo)),
    ],
    "htpo": [same(lambda: m.htpo(lowest=0, highest=0), lambda: m.dapo(dual=10.0), change=inside)],
    "kl_cov": [
        same(lambda: m.kl_cov(coefficient=0), open_bounds(m.dapo)), same(lambda: m.kl_cov(share=0), open_bounds(m.dapo))
    ],
    "lite_ppo": [
        same(m.lite_ppo, lambda: m.dapo(clip_high=0.2), change=OF_BATCH),
        same(m.lite_ppo, m.dr_grpo, "batch direction"),
    ],
    "lp_reg": [same(lambda: m.lp_reg(share=0), lambda: m.dapo(clip_low=1.0, clip_high=9.0))],
    "mcpo": [same(m.mcpo, lambda: after(population_advantage(), m.grpo(clip_high=0.28)), change=FEW_RIGHT)],
    "mcpo_kl": [same(lambda: m.mcpo_kl(coefficient=0), lambda: m.grpo(clip_high=0.28))],
    "nat_tokens": [same(lambda: m.nat_tokens(share=1), m.grpo)],
    "nat_prefix": [same(lambda: m.nat_prefix(least=1), m.grpo)],
    "random_tokens": [
        same(lambda: m.random_tokens(share=1), m.dapo), same(m.random_tokens, lambda: m.forking(keep="random"))
    ],
    "opefo": [same(lambda: m.opefo(strength=0), m.dapo), same(lambda: m.opefo(limit=0), m.dapo)],
    "pshw": [
        same(lambda: m.pshw(alpha=0, offset=1),
             lambda: m.dr_grpo(clip_high=0.28, constant=1.0)),
    ],
    "reinforce_pp": [same(m.reinforce_pp, reinforce(m.reinforce_pp), "gradient", change=on_policy)],
    "rloo": [same(m.rloo, reinforce(m.rloo), "gradient", change=on_policy)],
    "rock_tokens": [same(m.rock_tokens, m.dapo)],
    "rsi_selection": [same(lambda: m.rsi_selection(low=0, high=1e30), m.grpo)],
    "scaled_clip": [same(m.scaled_clip, m.dapo, change=inside)],
    "seed_grpo": [
        same(lambda: m.seed_grpo(alpha=0), m.dr_grpo),
        same(m.seed_grpo, m.dr_grpo, change=extra(cluster=lambda r: r.group_B)),
    ],
    "shear": [same(lambda: m.shear(epsilon=1.0), m.grpo, change=ONLY_RIGHT)],
    "siren": [same(lambda: m.siren(coefficient=0), lambda: m.dr_grpo(clip_high=0.28))],
    "srar": [same(lambda: m.srar(coefficient=0), lambda: m.dapo(dual=10.0))],
    "steer": [
        same(lambda: m.steer(low=1), lambda: m.dapo(dual=10.0)),
        same(lambda: m.steer(preset="released-linear", low=1, high=1), lambda: m.dapo(dual=10.0)),
    ],
    "t1": [same(lambda: m.t1(entropy_coefficient=0, kl=0), open_bounds(m.rloo))],
    "targeted_entropy": [same(lambda: m.targeted_entropy(coefficient=0), m.grpo)],
    "tea": [
        same(lambda: m.tea(coefficient=0), lambda: m.dapo(clip_low=1.0, clip_high=1.0, dual=10.0)),
    ],
    "trr_pp": [
        same(lambda: m.trr_pp(clip_high=0.2, dual=None), m.reinforce_pp,
             change=extra(kind=lambda r: torch.zeros(r.rows, dtype=torch.int64))),
    ],
}  # fmt: skip

ELSEWHERE: dict[str, str] = {
    "reasonmaxxer": "a supervised loss is no chain: test_reasonmaxxer",
    "sapo": "its limit as both temperatures tend to 0 is no identity to 1e-12: test_soft_trust",
}
"""Where a clause is tested that is not between two chains, or not to 1e-12."""
