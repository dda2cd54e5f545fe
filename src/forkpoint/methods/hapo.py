"""HAPO."""

from __future__ import annotations

from forkpoint.credit import Chain, aggregate, chain, clip, dual_clip
from forkpoint.credit.bounds import entropy_clip
from forkpoint.credit.redistribute import redistribution, token_group_advantage
from forkpoint.scope import Scope


def hapo(
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    quantile: float = 0.8,
    limit: float = 5.0,
    scope: Scope = "mini",
    released_sign: bool = False,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual: float | None = 10.0,
) -> Chain:
    """A group average over tokens, bounds that open with entropy, and advantage moved to where it acts.

        A_i = (R_i - μ_tok) / σ_tok                     over the tokens of the group
        ε_l ← ε_l (1 - alpha h) for h <= 0,   ε_h ← ε_h (1 + alpha h) for h > 0
        A_t ← A_t (1 + beta h_t)   where h > 0 and r moves, or h <= 0 and r rests within half its bounds

    h in [-1, 1] is where ln H of the current policy stands around its quantile. The adaptive temperature of the
    paper belongs to sampling.

    Reduces to: DAPO with the token-average advantage for `alpha=0, beta=0`; for answers of equal length that is
    `dapo` up to the divisor of the deviation.

    Confidence: verified — the released code was read.

    Deviations: the code (and eq. 6 as printed) divides by the signed minimum, so that h >= 0 everywhere and the
    branches for certain tokens never act; `released_sign=True` is that. The code takes quantile and extremes over the
    micro-batch, `scope="micro"`. Its script clips at 0.2 on both sides.

    Args:
        alpha: in [0, 1], how far bounds open.
        beta: in [0, 1], how much advantage moves.
        quantile: in [0, 1], the entropy at which h = 0.
        limit: > 0; a group in which |A| reaches it takes GRPO's advantage.
        scope: over which tokens quantile and extremes are taken.
        released_sign: take h >= 0 for certain tokens.
        clip_low: in [0, 1].
        clip_high: >= 0.
        dual: dual-clip constant > 1; None leaves it out.

    Source: arXiv 2509.16591 eqs. 5 to 13.
    """
    return chain(
        token_group_advantage(limit=limit),
        clip(low=clip_low, high=clip_high),
        entropy_clip(alpha=alpha, quantile=quantile, scope=scope, released_sign=released_sign),
        redistribution(beta=beta, quantile=quantile, scope=scope, released_sign=released_sign),
        *((dual_clip(c=dual),) if dual is not None else ()),
        aggregate(denominator="token"),
    )
