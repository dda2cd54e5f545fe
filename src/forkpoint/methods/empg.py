"""EMPG."""

from __future__ import annotations

from forkpoint.credit import Chain, chain
from forkpoint.credit.steps import step_modulation
from forkpoint.methods.dapo import dapo


def empg(
    *,
    k: float = 1.0,
    k_next: float = 1.0,
    zeta: float = 0.05,
    centre: bool = True,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Chain:
    """DAPO with more advantage on certain steps, and on steps that lead to certain ones.

        h = (H_s - min H) / (max H - min H),   g = exp(-k h) / mean exp(-k h),   f = exp(-k_next h)
        A_s ← A_s g(h_s) + zeta f(h_{s+1}),   then minus its mean over all steps of the batch

    H_s is the mean entropy of step s, which `columns.step` delimits. The bonus does not come from the reward, so a
    batch of equal rewards teaches a little too.

    Reduces to: `dapo` with `k=0, zeta=0, centre=False`.

    Confidence: inspired — formula and numbers from a re-implementation that cites the paper's equations; the paper's
    own values of k, k_next and zeta were not seen.

    Args:
        k: >= 0, fall of the advantage with the step's entropy.
        k_next: >= 0, fall of the bonus with the next step's entropy.
        zeta: >= 0, weight of the bonus.
        centre: subtract the mean over steps.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2509.09265 eqs. 8 to 12.
    """
    return chain(
        dapo(clip_low=clip_low, clip_high=clip_high), step_modulation(k=k, k_next=k_next, zeta=zeta, centre=centre)
    )
