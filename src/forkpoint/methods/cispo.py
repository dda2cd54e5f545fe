"""CISPO."""

from __future__ import annotations

from forkpoint.credit import Chain, aggregate, chain, group_advantage, stop_ratio


def cispo(*, cap: float = 5.0, floor: float | None = None) -> Chain:
    """Clip the importance weight, not the token: every token keeps its gradient.

        L = -(1 / Σ_i |o_i|) Σ sg(clamp(r, floor, cap)) A log π

    On the first update after sampling r = 1 and the gradient is DAPO's.

    Reduces to: DAPO's gradient on the first update after sampling; a cap below every ratio makes it REINFORCE.

    Confidence: verified — equations read, verl and TRL read.

    Deviations: TRL's `epsilon_high` is `cap`; verl caps at 1 + `clip_ratio_high` and floors at 1 - `clip_ratio_low`.

    Args:
        cap: > 0, the largest importance weight itself. TRL's `epsilon_high` is this number; verl's
            `clip_ratio_high` is cap - 1. The paper tunes it and does not print a value.
        floor: the smallest weight; None leaves it open, as the paper does (verl: 1 - `clip_ratio_low`).

    Source: arXiv 2506.13585 eqs. 4 and 5; cap 5 as in arXiv 2510.13786.
    """
    return chain(group_advantage(), stop_ratio(cap=cap, floor=floor), aggregate(denominator="token"))


def cispo_verl(*, clip_low: float = 10.0, clip_high: float = 0.2) -> Chain:
    """CISPO in verl's convention: both bounds of the weight are distances from 1.

        L = -(1 / Σ_i |o_i|) Σ sg(clamp(r, max(0, 1 - low), 1 + high)) A log π

    Reduces to: `cispo` with `cap = 1 + clip_high` and `floor = max(0, 1 - clip_low)`.

    Confidence: verified — verl's code and example script read.

    Args:
        clip_low: >= 0; verl's example sets 10, which leaves the lower side open.
        clip_high: >= 0.

    Source: arXiv 2506.13585 eqs. 4 and 5; numbers of verl's example.
    """
    return cispo(cap=1 + clip_high, floor=max(0.0, 1 - clip_low))
