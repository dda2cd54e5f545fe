"""EDAS."""

from __future__ import annotations

from forkpoint.credit import Chain, chain
from forkpoint.credit.diversity import error_diversity
from forkpoint.methods.dapo import dapo


def edas(
    *, alpha: float = 0.4, beta: float = 0.2, cap: float = 2.0, clip_low: float = 0.2, clip_high: float = 0.28
) -> Chain:
    """DAPO in which wrong answers with a rare mistake are punished less than those with a common one.

        A_i ← A_i + sign(Δ_i) min(|Δ_i|, |A_i| / cap)
        Δ_i = alpha S (I_i - H) / ln N  for K > 1 kinds of mistake,  -beta S  for one,  0  for N <= 1 wrong answers

    with I_i = -ln of the share of the answer's mistake among the N wrong ones, H its mean, S their mean |A|. Mistakes
    are the same where the final answers are; `columns.answer` says where those stand.

    Reduces to: `dapo` with `alpha=0, beta=0`, and where every group has one wrong answer.

    Confidence: verified — the README of the code states the formula in full; the code itself was not read.

    Deviations: the library's defaults are alpha 0.2, beta 0.2 and a linear ramp of Δ; these are the paper's, without
    ramp. A schedule on alpha and beta is that ramp.

    Args:
        alpha: >= 0, where mistakes differ.
        beta: >= 0, where all make the same mistake; the paper uses 0.3 on DAPO.
        cap: > 1, κ: no advantage moves by more than |A| / cap.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2605.17333, README of its code.
    """
    return chain(dapo(clip_low=clip_low, clip_high=clip_high), error_diversity(alpha=alpha, beta=beta, cap=cap))
