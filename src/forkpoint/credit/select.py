"""Selection by rank: only the share of tokens with the largest value of a signal learns."""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor

from forkpoint.credit._choice import above_quantile, check_finite, current_or_recorded, selection, top_share
from forkpoint.credit.checks import check_choice
from forkpoint.credit.link import Link
from forkpoint.entropy.signals import gradient_norm, window_entropy
from forkpoint.rollouts import Credit, Forward, Rollouts
from forkpoint.scope import Scope

__all__ = ["above_quantile", "top_entropy", "top_gradient", "top_share", "top_window_entropy"]


def top_entropy(
    *,
    share: float = 0.2,
    source: Literal["current", "behaviour"] = "current",
    scope: Scope = "mini",
    ties: Literal["count", "threshold"] = "count",
    denominator: Literal["selected", "all"] = "selected",
    keep: Literal["top", "bottom", "random"] = "top",
) -> Link:
    """Link: only the given share of tokens with the highest entropy learns.

        keep_t = [H_t among the top `share` of its scope]

    With `share=1` every token learns and the link changes nothing. Only tokens that still count are ranked:
    padding and answers that were not judged never enter.

    Args:
        share: in (0, 1], the fraction of tokens that learns.
        source: entropy of the `current` policy (the paper and every released version) or of the `behaviour`
            policy that sampled the tokens, which costs nothing and is the same for every update.
        scope: over which tokens the share is taken. `mini` (default) does not depend on the memory at hand;
            `micro` is what the paper's code, TRL and verl forks do.
        ties: `count` takes exactly ceil(share n) tokens and breaks ties by the token's identity; `threshold`
            keeps everything at or above the quantile.
        denominator: `selected` drops the other tokens from the loss's denominator (the paper, v2); `all`
            silences them and leaves them in it (the paper's v1, TRL).
        keep: `top`, or the controls `bottom` (lowest entropy) and `random` (same count, drawn anew in every
            update).

    Returns:
        A link that runs in the update when it looks at the current policy or at update-sized scopes.

    Raises:
        InputError: an argument outside its range, or an entropy that is not finite.

    Source: arXiv 2506.01939 eqs. 5 and 6.
    """
    entropy = functools.partial(current_or_recorded, source=source)
    return selection(
        "top_entropy", entropy, share=share, source=source, scope=scope, ties=ties, denominator=denominator, keep=keep
    )


def top_window_entropy(
    *,
    width: int = 4,
    share: float = 0.2,
    source: Literal["current", "behaviour"] = "behaviour",
    scope: Scope = "rollout",
    ties: Literal["count", "threshold"] = "count",
    denominator: Literal["selected", "all"] = "selected",
    keep: Literal["top", "bottom", "random"] = "top",
) -> Link:
    """Link: only the given share of tokens whose next `width` entropies are highest on average learns.

        keep_t = [W_t among the top `share` of its scope],   W_t = (1/w) Σ_{j<w} H_{t+j}

    One uncertain token in a certain stretch counts less than a stretch that stays uncertain. `width=1` is
    `top_entropy`; `share=1` changes nothing. A token whose window does not fit into its answer cannot be chosen,
    so an answer shorter than the window learns nothing.

    Args:
        width: >= 1 tokens, the token itself included.
        share: in (0, 1], of the tokens that have a window.
        source: entropy of the `current` or of the `behaviour` policy.
        scope: over which tokens the share is taken.
        ties: see `top_entropy`.
        denominator: see `top_entropy`.
        keep: see `top_entropy`.

    Raises:
        InputError: an argument outside its range, or an entropy that is not finite.

    Source: the window of arXiv 2510.08457 (ARES); see `forkpoint.entropy.signals.window_entropy`.
    """
    window_entropy(torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.bool), width=width)  # checks the width

    def value(credit: Credit, rollouts: Rollouts, forward: Forward | None) -> Tensor:
        entropy_BT = current_or_recorded(credit, rollouts, forward, source=source)
        return window_entropy(entropy_BT, rollouts.mask_BT, width=width)

    return selection(
        "top_window_entropy", value, share=share, source=source, scope=scope, ties=ties, denominator=denominator,
        keep=keep, arguments={"width": width},
    )  # fmt: skip


def top_gradient(
    *,
    share: float = 0.2,
    length: Literal["bound", "exact"] = "bound",
    source: Literal["current", "behaviour"] = "current",
    scope: Scope = "mini",
    ties: Literal["count", "threshold"] = "count",
    denominator: Literal["selected", "all"] = "selected",
    keep: Literal["top", "bottom", "random"] = "top",
) -> Link:
    """Link: only the given share of tokens with the largest policy gradient learns.

        keep_t = [|w_t A_t| ‖∇_z log π(y_t)‖ among the top `share` of its scope]

    the length of the gradient by the logits before any clipping. Unlike entropy it compares answers too: one
    without advantage has no gradient and comes last. `share=1` changes nothing.

    Args:
        share: in (0, 1].
        length: `bound` takes 1 - π(y_t), which the true length exceeds by a factor of at most sqrt(2); `exact`
            needs `collision`, which is of the policy whose log-prob `source` names.
        source: log-prob of the `current` or of the `behaviour` policy.
        scope: over which tokens the share is taken.
        ties: see `top_entropy`.
        denominator: see `top_entropy`.
        keep: see `top_entropy`.

    Raises:
        InputError: an argument outside its range, or a log-prob that is not finite.

    Source: the idea of "Gradient Magnitude-based Token Selection" (OpenReview JGvOicAo3g), whose abstract alone
    could be read.
    """
    check_choice("top_gradient", "length", length, ("bound", "exact"))
    reads_length = length == "exact" and keep != "random"
    needs = {"forward_collision" if source == "current" else "collision"} if reads_length else set()

    def value(credit: Credit, rollouts: Rollouts, forward: Forward | None) -> Tensor:
        logp_BT = rollouts.logp_BT if forward is None else forward.logp_BT
        check_finite(logp_BT, credit.keep_BT, source, of="log-prob")
        extra = rollouts.extra if forward is None else forward.extra
        exact_BT = extra["collision"] if needs else None
        return (credit.weight_BT * credit.advantage_BT).abs() * gradient_norm(logp_BT, exact_BT)

    return selection(
        "top_gradient", value, share=share, source=source, scope=scope, ties=ties, denominator=denominator, keep=keep,
        arguments={"length": length}, reads_entropy=False, needs=needs,
    )  # fmt: skip
