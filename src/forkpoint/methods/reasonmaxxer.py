"""ReasonMaxxer: offline contrast at decision tokens."""

from __future__ import annotations

from forkpoint.credit import Chain, aggregate, chain, stop_ratio
from forkpoint.credit.contrast import contrast_advantage, decision_tokens, hold_others


def reasonmaxxer(*, threshold: float = 1.4, kl: float = 0.2, cap: float = 2.5) -> Chain:
    """Learn from recorded answers of the base model, at the tokens where it was undecided; hold all others.

        L = mean_i [ mean_{t in D_i} -A_i log π(y_t) + kl mean_{t not in D_i} KL(π_base ‖ π) ]
        A_i = clip((R_i - μ_g) / σ_g, -cap, cap),   D = {t : H_t > threshold}

    The rollouts are of the base model and may be old: no ratio enters the policy term. `forkpoint train RECIPE
    --offline DATA` learns from them.

    Reduces to: supervised learning from right answers, weighted by A, where only right ones are kept and `kl=0`.

    Confidence: inspired — the code of a fork was read; the KL is estimated at the recorded tokens.

    Deviations: the code computes the KL over the whole vocabulary; here it is π / π_base - 1 - log(π / π_base) of the
    recorded token, whose mean is the same. Choosing problems near pass rate 1/2 and dropping the longest fifth of
    the answers is left to the caller.

    Args:
        threshold: >= 0, nats; 1.4 for a model of 1.5 B parameters, 1.0 to 2.2 were tried.
        kl: >= 0.
        cap: > 0, largest advantage.

    Source: arXiv 2605.06241.
    """
    return chain(
        contrast_advantage(cap=cap),
        stop_ratio(cap=1.0, floor=1.0),
        aggregate(denominator="sequence"),
        decision_tokens(threshold=threshold),
        *((hold_others(threshold=threshold, coefficient=kl),) if kl != 0 else ()),
    )
