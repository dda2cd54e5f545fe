"""Windows of high entropy, after ARES."""

from __future__ import annotations

from typing import Literal

from forkpoint.credit import Chain, chain
from forkpoint.credit.band import window_threshold
from forkpoint.credit.select import top_window_entropy
from forkpoint.methods.dapo import dapo
from forkpoint.scope import Scope


def ares_windows(
    *,
    width: int = 4,
    percentile: float = 0.95,
    decay: float = 0.99,
    start: float | None = None,
    denominator: Literal["selected", "all"] = "selected",
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Chain:
    """DAPO in which only tokens that open a window of high entropy learn, by a threshold that follows the run.

        keep_t = [W_t >= θ],   W_t = (1/w) Σ_{j<w} H_{t+j}
        θ' = decay θ + (1 - decay) median_i (percentile of W over answer i)

    Reduces to: DAPO over the tokens that have a window, at `start=-1` and `decay=1`.

    Confidence: inspired — window and threshold are the released code's, which counts such windows for its reward
    and selects no tokens by them.

    Deviations: the released code starts at -1, where every window passes; here the first batch sets the threshold
    unless `start` is given. It takes entropies of the 10 most likely tokens and a rest; here they are exact.

    Args:
        width: >= 1 tokens, the token itself included.
        percentile: in [0, 1], of the windows of one answer.
        decay: in [0, 1]; 1 keeps the threshold where it is.
        start: the first threshold in nats; None takes the first batch's own.
        denominator: `selected` or `all`; see `top_entropy`.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2510.08457; `vllm_rollout_spmd.py` of its repository.
    """
    return chain(
        dapo(clip_low=clip_low, clip_high=clip_high),
        window_threshold(width=width, percentile=percentile, decay=decay, start=start, denominator=denominator),
    )


def window_forking(
    *,
    width: int = 4,
    share: float = 0.2,
    source: Literal["current", "behaviour"] = "current",
    scope: Scope = "mini",
    denominator: Literal["selected", "all"] = "selected",
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Chain:
    """The 80/20 rule on windows: only tokens whose next entropies are highest on average learn.

        L = -(1 / Σ_t 1[W_t ≥ τ]) Σ_t 1[W_t ≥ τ] min(r A, clip(r, 1 - low, 1 + high) A),  W_t = (1/w) Σ_{j<w} H_{t+j}

    Reduces to: `forking` at `width=1`, DAPO at `share=1`.

    Confidence: inspired — the window is that of ARES, the rule that of the 80/20 paper; nobody has published the
    two together.

    Args:
        width: >= 1 tokens, the token itself included.
        share: in (0, 1], of the tokens that have a window.
        source: `current` or `behaviour` policy's entropy.
        scope: over which tokens the share is taken.
        denominator: `selected` or `all`; see `top_entropy`.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2510.08457 (window), arXiv 2506.01939 eqs. 5 and 6 (rule).
    """
    return chain(
        dapo(clip_low=clip_low, clip_high=clip_high),
        top_window_entropy(width=width, share=share, source=source, scope=scope, denominator=denominator),
    )
