"""NAT and the random control: tokens drawn at random."""

from __future__ import annotations

from typing import Literal

from forkpoint.credit import Chain, chain
from forkpoint.credit.sampled import sampled_prefix, sampled_tokens
from forkpoint.credit.select import top_entropy
from forkpoint.methods.dapo import dapo
from forkpoint.methods.grpo import grpo
from forkpoint.scope import Scope


def nat_tokens(*, share: float = 0.5, clip_low: float = 0.2, clip_high: float = 0.2) -> Chain:
    """GRPO on tokens drawn at random, with the gradient of all tokens in expectation.

        w_t = 1/share with probability share, else 0

    A control for every selection: whatever beats it owes it to the tokens it chose, not to there being fewer.

    Reduces to: GRPO at `share=1`.

    Confidence: inspired — Horvitz-Thompson weights, uniform sampling and one half of the tokens are the abstract's;
    that every token is drawn on its own is ours.

    Args:
        share: in (0, 1], the probability of a token.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2603.06619 (uniform random sampling).
    """
    return chain(grpo(clip_low=clip_low, clip_high=clip_high), sampled_tokens(share=share))


def nat_prefix(*, least: float, clip_low: float = 0.2, clip_high: float = 0.2) -> Chain:
    """GRPO on answers cut at random, with the gradient of all tokens in expectation.

        w_t = [t <= cut]/π_t,   cut drawn evenly from {m, …, n},   m = max(1, ceil(least n))
        π_t = 1 up to m, then (n - t + 1)/(n - m + 1)

    Reduces to: GRPO at `least=1`.

    Confidence: inspired — prefix cut and Horvitz-Thompson weights are the abstract's; how the cut is drawn is not
    known, so `least` is the user's.

    Args:
        least: in [0, 1], the fraction of an answer that is always kept; weights grow to (1 - least) n + 1.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2603.06619 (random prefix cutting).
    """
    return chain(grpo(clip_low=clip_low, clip_high=clip_high), sampled_prefix(least=least))


def random_tokens(
    *,
    share: float = 0.2,
    scope: Scope = "mini",
    denominator: Literal["selected", "all"] = "selected",
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Chain:
    """DAPO on an exact share of tokens drawn at random: the control of the 80/20 rule.

        keep_t = [t among k = max(1, ceil(share n)) tokens drawn anew in every update]

    Reduces to: DAPO at `share=1`; it is `forking` with `keep="random"`.

    Confidence: verified — a uniformly random 20 % of tokens is the control the abstract reports; that it is drawn
    in every update is ours.

    Args:
        share: in (0, 1], the fraction of tokens that learns.
        scope: over which tokens the share is taken.
        denominator: `selected` or `all`; see `top_entropy`.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2605.07660 (control).
    """
    return chain(
        dapo(clip_low=clip_low, clip_high=clip_high),
        top_entropy(share=share, scope=scope, denominator=denominator, keep="random"),
    )
