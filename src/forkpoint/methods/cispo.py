"""CISPO."""

from __future__ import annotations

from forkpoint.credit import Chain, aggregate, chain, group_advantage, stop_ratio


def cispo(*, cap: float = 5.0, floor: float | None = None) -> Chain:
    """Clip the importance weight, not the token: every token keeps its gradient.

        L = -(1 / Σ_i |o_i|) Σ sg(clamp(r, floor, cap)) A log π

    On the first update after sampling r = 1 and the gradient is DAPO's.

    Args:
        cap: > 0, the largest importance weight itself. TRL's `epsilon_high` is this number; verl's
            `clip_ratio_high` is cap - 1. The paper tunes it and does not print a value.
        floor: the smallest weight; None leaves it open, as the paper does (verl: 1 - `clip_ratio_low`).

    Source: arXiv 2506.13585 eqs. 4 and 5; cap 5 as in arXiv 2510.13786.
    """
    return chain(group_advantage(), stop_ratio(cap=cap, floor=floor), aggregate(denominator="token"))
