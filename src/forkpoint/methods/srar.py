"""SRaR: step-wise rubric rewards."""

from __future__ import annotations

from forkpoint.credit import Chain, chain
from forkpoint.credit.steps import step_advantage
from forkpoint.methods.dapo import dapo


def srar(
    *,
    coefficient: float = 1.0,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual: float | None = 10.0,
) -> Chain:
    """DAPO plus what a judge says of every step, compared with the same step of the other answers.

        A_t = (R_i - μ_g) / σ_g + coefficient z_{i, step(t)},   z_ik = (d_ik - μ_k) / σ_k

    over the answers of the group in which step k was judged; fewer than two, or equal verdicts, give 0. |z| is at most
    (m - 1) / sqrt(m) for m answers. Steps teach where the rewards are equal, too.

    Reduces to: `dapo` with `coefficient=0` and the same dual clip.

    Confidence: verified — the released code was read.

    Deviations: steps are exact to the token (`columns.step_header` finds the paper's), where the code maps characters
    to tokens by proportion. The judge is a function of yours, `columns.program`, which gives `step_reward`. A verdict
    on a step beyond the last one is given to the whole answer there; here the judge adds it to `answer_reward`.

    Args:
        coefficient: >= 0; the paper has none (1).
        clip_low: in [0, 1].
        clip_high: >= 0.
        dual: dual-clip constant > 1; None leaves it out.

    Source: arXiv 2605.17291 and its code.
    """
    return chain(
        dapo(clip_low=clip_low, clip_high=clip_high, dual=dual),
        step_advantage(coefficient=coefficient),
    )
