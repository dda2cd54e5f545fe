"""DelTA-like discriminative weights."""

from __future__ import annotations

from typing import Literal

from forkpoint.credit import Chain, chain
from forkpoint.credit.hidden import discriminative_weight
from forkpoint.methods.dapo import dapo
from forkpoint.scope import Scope


def delta(
    *,
    temperature: float,
    low: float = 0.8,
    high: float = 1.2,
    rounds: int = 1,
    source: Literal["current", "behaviour"] = "current",
    scope: Scope = "mini",
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Chain:
    """DAPO in which tokens that tell right answers from wrong ones weigh more than those both share.

        g_t = (1 - π) h_t,   c± = mean of g over A ≷ 0, weighted by |A| (then by |A| q)
        s_t = (‖g - c_other‖² - ‖g - c_own‖²)/(‖g - c_other‖² + ‖g - c_own‖²)
        q_t = sigmoid(s_t / (temperature σ_side)),   w_t = (low + (high - low) q_t) / mean

    Reduces to: DAPO at `low=high` or at an infinite temperature.

    Confidence: inspired — gradient proxy, centroids, refinement, range and normalisation are those of a digest of
    the paper; the score is its "relative squared distance" and the temperature its "side-adaptive" one in a form of
    ours, so the temperature has no value of the paper's.

    Deviations: the paper computes weights once per rollout batch with the policy that sampled: `source="behaviour"`
    and `scope="rollout"`. The default takes the current policy in every update, whose hidden states cost nothing more;
    with one update a batch both are the same.

    Args:
        temperature: > 0, in units of the root mean square of a side's scores.
        low: >= 0, weight before normalisation of a token that tells nothing.
        high: >= low, of one that tells its side for certain.
        rounds: >= 0, how often the centroids are estimated anew.
        source: hidden states of the `current` policy, or of the `behaviour` policy, which cost a pass more.
        scope: over which tokens centroids and mean weight are taken.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2605.21467.
    """
    return chain(
        dapo(clip_low=clip_low, clip_high=clip_high),
        discriminative_weight(temperature=temperature, low=low, high=high, rounds=rounds, source=source, scope=scope),
    )
