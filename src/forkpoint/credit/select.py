"""Selection: which tokens learn."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor

from forkpoint.credit.link import Link, State
from forkpoint.errors import InputError, did_you_mean
from forkpoint.rollouts import Credit, Forward, Rollouts
from forkpoint.scope import (
    Batching,
    Scope,
    check_scope,
    exact_count,
    quantile,
    segment_sum,
    segments,
    token_order,
    top_count,
)

SOURCES = ("current", "behaviour")
TIES = ("count", "threshold")
KEEPS = ("top", "bottom", "random")


def top_share(
    value_BT: Tensor, mask_BT: Tensor, share: float, segment_B: Tensor, order_BT: Tensor, *, keep: str = "top"
) -> Tensor:
    """Return the mask of an exact share of tokens in every segment.

    With n candidates in a segment:

        top:     the k = max(1, ceil(share n)) largest values
        bottom:  everything but the ceil((1 - share) n) largest: the exact complement of `top` at 1 - share,
                 or the smallest value alone where that would leave none
        random:  k tokens drawn by `order_BT`

    Equal values are ordered by `order_BT`, so the count is exact and the choice does not depend on the order
    of rows.

    Args:
        value_BT: float (B, T).
        mask_BT: bool (B, T), candidates.
        share: in (0, 1].
        segment_B: int64 (B,), from `forkpoint.scope.segments`.
        order_BT: int64 (B, T), from `forkpoint.scope.token_order`.
        keep: `top`, `bottom` or `random`.

    Returns:
        bool (B, T).

    Source: count as in the code of arXiv 2506.01939 (`ceil`, at least one).

    >>> v = torch.tensor([[0.1, 0.9, 0.9, 0.0, 2.0]])
    >>> top_share(v, v >= 0, 0.4, torch.tensor([0]), torch.arange(5)[None])
    tensor([[False,  True, False, False,  True]])
    """
    size_S = segment_sum(mask_BT.sum(1), segment_B)
    if keep == "bottom":
        dropped_S = torch.tensor([exact_count(1 - share, n) if share < 1 else 0 for n in size_S.tolist()])
        dropped_S = torch.minimum(dropped_S.to(size_S.device), (size_S - 1).clamp(min=0))
        return mask_BT & ~top_count(value_BT, mask_BT, dropped_S, segment_B, order_BT)
    count_S = torch.tensor([exact_count(share, n) for n in size_S.tolist()], device=size_S.device)
    value_BT = torch.zeros_like(value_BT) if keep == "random" else value_BT
    return top_count(value_BT, mask_BT, count_S.to(torch.int64), segment_B, order_BT)


def above_quantile(value_BT: Tensor, mask_BT: Tensor, share: float, segment_B: Tensor, *, keep: str = "top") -> Tensor:
    """Return the mask of tokens at or above the (1 - share)-quantile of their segment; ties are all kept.

        top:     value >= τ,  τ the (1 - share)-quantile with linear interpolation
        bottom:  value <  τ,  τ the share-quantile: the exact complement of `top` at 1 - share

    With many equal values the kept share can be far from `share`, up to every token.

    Args:
        value_BT: float (B, T).
        mask_BT: bool (B, T), candidates.
        share: in (0, 1].
        segment_B: int64 (B,).
        keep: `top` or `bottom`.

    Returns:
        bool (B, T).

    Source: the rule of TRL 1.16 `get_high_entropy_mask`.
    """
    value_BT = value_BT.to(torch.promote_types(value_BT.dtype, torch.float32))
    out_BT = torch.zeros_like(mask_BT)
    for segment in range(int(segment_B.max()) + 1 if segment_B.numel() else 0):
        rows_B = segment_B == segment
        candidates = value_BT[rows_B][mask_BT[rows_B]]
        if candidates.numel() == 0:
            continue
        cut = quantile(candidates, 1 - share if keep == "top" else share)
        chosen = value_BT >= cut if keep == "top" or share == 1 else value_BT < cut
        if keep == "bottom" and share == 1:
            chosen = torch.ones_like(mask_BT)
        out_BT |= rows_B[:, None] & chosen & mask_BT
    return out_BT


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
    _check_arguments(share, source, scope, ties, denominator, keep)
    reads_current = source == "current" and keep != "random"

    def update(
        credit: Credit,
        rollouts: Rollouts,
        *,
        forward: Forward | None,
        batching: Batching,
        state: State,
        rng: int,
        **_: Any,
    ) -> tuple[Credit, State]:
        if share == 1:
            return credit, state
        entropy_BT = forward.entropy_BT if reads_current and forward is not None else rollouts.entropy_BT
        candidates_BT = credit.keep_BT
        _check_finite(entropy_BT, candidates_BT, source)
        segment_B = segments(scope, group_B=rollouts.group_B, batching=batching)
        if ties == "threshold" and keep != "random":
            chosen_BT = above_quantile(entropy_BT, candidates_BT, share, segment_B, keep=keep)
        else:
            ids = tuple(prompt.id for prompt in rollouts.prompts)
            salt = rng if keep == "random" else 0
            order_BT = token_order(ids, rollouts.group_B, rollouts.sample_B, entropy_BT.shape[1], salt)
            chosen_BT = top_share(entropy_BT, candidates_BT, share, segment_B, order_BT, keep=keep)
        if denominator == "selected":
            return dataclasses.replace(credit, keep_BT=chosen_BT), state
        return dataclasses.replace(credit, weight_BT=credit.weight_BT * chosen_BT), state

    needs = {"forward"} if reads_current else set() if keep == "random" else {"entropy"}
    return Link(
        name="top_entropy",
        arguments={
            "share": share,
            "source": source,
            "scope": scope,
            "ties": ties,
            "denominator": denominator,
            "keep": keep,
        },
        update=update,
        when="update" if reads_current or keep == "random" or scope in ("micro", "mini") else "rollout",
        scope=scope,
        needs=frozenset(needs),
        drops=denominator == "selected",
        adds=False,
    )


def _check_arguments(share: float, source: str, scope: str, ties: str, denominator: str, keep: str) -> None:
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise InputError(f"share is {share!r} and must be a number in (0, 1]: the fraction of tokens that learns")
    check_scope(scope)
    for name, value, valid in (
        ("source", source, SOURCES),
        ("ties", ties, TIES),
        ("denominator", denominator, ("selected", "all")),
        ("keep", keep, KEEPS),
    ):
        if value not in valid:
            raise InputError(f"unknown {name} {value!r} of top_entropy: {did_you_mean(str(value), valid)}")


def _check_finite(entropy_BT: Tensor, mask_BT: Tensor, source: str) -> None:
    """A NaN would make a quantile NaN and silently train on nothing; refuse it by name instead."""
    bad_BT = mask_BT & ~entropy_BT.isfinite()
    if bad_BT.any():
        row, position = (int(i) for i in bad_BT.nonzero()[0])
        raise InputError(
            f"the {source} entropy of row {row}, position {position} is {float(entropy_BT[row, position])}: "
            "the logits were not finite there, so no selection is possible"
        )
