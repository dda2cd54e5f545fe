"""KL-Cov."""

from __future__ import annotations

from forkpoint.credit import Chain, aggregate, chain, group_advantage
from forkpoint.credit.covariance import kl_cov as link
from forkpoint.scope import Scope


def kl_cov(*, share: float = 2e-3, coefficient: float = 1.0, scope: Scope = "mini") -> Chain:
    """The tokens whose log-prob and advantage are largest together are held near the policy that sampled them.

        L_t = -r A + coefficient |log π - log π_old| 1[t among the share N largest Cov_t]

    Reduces to: an unclipped policy gradient with `coefficient=0` or `share=0`.

    Confidence: verified — paper and code read.

    Deviations: the paper writes the KL of the policies, its code |log π - log π_old|. verl's defaults are share 2e-4
    and coefficient 0.1; released code and verl work on a micro-batch, `scope="micro"`.

    Args:
        share: in [0, 1], of all tokens; 2e-3 for the paper's 7B model, 2e-4 for its 32B model.
        coefficient: >= 0, in loss per nat.
        scope: over which tokens means and share are taken.

    Source: arXiv 2505.22617 eqs. 10 to 14, KL-Cov.
    """
    return chain(
        group_advantage(),
        aggregate(denominator="token"),
        link(share=share, coefficient=coefficient, scope=scope),
    )
