"""What selection links share: exact shares and quantiles of a segment, and the link built on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from forkpoint.credit.checks import check_choice
from forkpoint.credit.link import Link, State
from forkpoint.errors import InputError
from forkpoint.rollouts import Credit, Forward, Rollouts
from forkpoint.scope import (
    Batching,
    Scope,
    check_scope,
    rank_key,
    segment_sum,
    segments,
    token_order,
    top_count,
)

SOURCES = ("current", "behaviour")
TIES = ("count", "threshold")
KEEPS = ("top", "bottom", "random")
DENOMINATORS = ("selected", "all")


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
        dropped_S = _exact_counts(1 - share, size_S) if share < 1 else torch.zeros_like(size_S)
        dropped_S = torch.minimum(dropped_S, (size_S - 1).clamp(min=0))
        return mask_BT & ~top_count(value_BT, mask_BT, dropped_S, segment_B, order_BT)
    value_BT = torch.zeros_like(value_BT) if keep == "random" else value_BT
    return top_count(value_BT, mask_BT, _exact_counts(share, size_S), segment_B, order_BT)


def _exact_counts(share: float, size_S: Tensor) -> Tensor:
    """Return `forkpoint.scope.exact_count` of every segment's size."""
    wanted_S = (share * size_S.double() * 1e9).round() / 1e9
    return torch.minimum(wanted_S.ceil().clamp(min=1).to(size_S.dtype), size_S)


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
    if share == 1:
        return mask_BT.clone()
    cut_B1 = segment_quantile(value_BT, mask_BT, 1 - share if keep == "top" else share, segment_B)[segment_B, None]
    return mask_BT & (value_BT >= cut_B1 if keep == "top" else value_BT < cut_B1)


def segment_quantile(value_BT: Tensor, mask_BT: Tensor, q: float, segment_B: Tensor) -> Tensor:
    """Return the q-quantile of the masked values of every segment, with linear interpolation.

    Equal to `forkpoint.scope.quantile` of every segment's values, bit for bit.

    Args:
        value_BT: float (B, T), float32 or wider, without NaN where masked.
        mask_BT: bool (B, T).
        q: in [0, 1].
        segment_B: int64 (B,), from `forkpoint.scope.segments`.

    Returns:
        float (segments,); NaN where a segment has no value.

    >>> v = torch.tensor([[1.0, 2.0], [5.0, 0.0]])
    >>> segment_quantile(v, v > 0, 0.5, torch.tensor([0, 1]))
    tensor([1.5000, 5.0000])
    """
    size_S = segment_sum(mask_BT.sum(1), segment_B)
    value_N = value_BT[mask_BT]
    if value_N.numel() == 0:
        return torch.full(size_S.shape, torch.nan, dtype=value_BT.dtype, device=value_BT.device)
    if size_S.numel() > 1:
        segment_N = segment_B.to(torch.int32)[:, None].expand_as(mask_BT)[mask_BT]
        by = torch.argsort(rank_key(value_N), stable=True)
        value_N = value_N[by[torch.argsort(segment_N[by], stable=True)]]
    else:
        value_N = value_N[torch.argsort(rank_key(value_N), stable=True)]
    start_S = size_S.cumsum(0) - size_S
    last_S = (size_S - 1).clamp(min=0)
    # torch.quantile takes the rank in the dtype of the values; float32 cannot count beyond 2^24.
    dtype = value_BT.dtype if value_N.numel() <= 1 << 24 else torch.float64
    rank_S = torch.tensor(q, dtype=dtype, device=value_BT.device) * last_S
    lower_S = rank_S.floor().to(torch.int64)
    final = value_N.numel() - 1
    below_S = value_N[(start_S + lower_S).clamp(max=final)]
    above_S = value_N[(start_S + torch.minimum(lower_S + 1, last_S)).clamp(max=final)]
    found_S = torch.lerp(below_S, above_S, (rank_S - lower_S).to(value_BT.dtype))
    return torch.where(size_S > 0, found_S, torch.nan)


Value = Callable[[Credit, Rollouts, Forward | None], Tensor]
"""What tokens are ranked by: float (B, T), NaN where a token has no rank and cannot be chosen."""


def selection(
    name: str,
    value: Value,
    *,
    share: float,
    source: str,
    scope: Scope,
    ties: str,
    denominator: str,
    keep: str,
    reads_entropy: bool = True,
    needs: Collection[str] = (),
    arguments: Mapping[str, Any] | None = None,
) -> Link:
    """Return the link in which the given share of tokens with the largest value learns.

    With `share=1` it changes nothing.

    Args:
        name: of the link.
        value: what tokens are ranked by; `random` asks it with the recorded values, for the candidates alone.
        share: in (0, 1].
        source: `current` or `behaviour`, whose distribution `value` reads.
        scope: over which tokens the share is taken.
        ties: `count` or `threshold`; see `top_entropy`.
        denominator: `selected` or `all`; see `top_entropy`.
        keep: `top`, `bottom` or `random`.
        reads_entropy: whether `value` reads the entropy where it reads the behaviour policy.
        needs: what else `value` needs.
        arguments: of the link besides these, for its description.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise InputError(f"share is {share!r} and must be a number in (0, 1]: the fraction of tokens that learns")
    check_scope(scope)
    check_choice(name, "source", source, SOURCES)
    check_choice(name, "ties", ties, TIES)
    check_choice(name, "denominator", denominator, DENOMINATORS)
    check_choice(name, "keep", keep, KEEPS)
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
        value_BT = value(credit, rollouts, forward if reads_current else None)
        candidates_BT = credit.keep_BT & ~value_BT.isnan()
        segment_B = segments(scope, group_B=rollouts.group_B, batching=batching)
        if ties == "threshold" and keep != "random":
            chosen_BT = above_quantile(value_BT, candidates_BT, share, segment_B, keep=keep)
        else:
            order_BT = draw(rollouts, rng if keep == "random" else 0)
            chosen_BT = top_share(value_BT, candidates_BT, share, segment_B, order_BT, keep=keep)
        return choose(credit, chosen_BT, denominator), state

    read = set(needs)
    if reads_current or (reads_entropy and source == "behaviour" and keep != "random"):
        read.add("forward" if reads_current else "entropy")
    return Link(
        name=name,
        stage="selection",
        arguments={
            **(arguments or {}),
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
        needs=frozenset(read),
        drops=denominator == "selected",
        adds=False,
    )


def choose(credit: Credit, chosen_BT: Tensor, denominator: str) -> Credit:
    """Return credit in which only the chosen tokens learn.

    Args:
        credit: what flows in.
        chosen_BT: bool (B, T), a subset of the tokens that count.
        denominator: `selected` drops the others from the loss's denominator, `all` silences them and leaves them
            in it.
    """
    if denominator == "selected":
        return dataclasses.replace(credit, keep_BT=credit.keep_BT & chosen_BT)
    return dataclasses.replace(credit, weight_BT=credit.weight_BT * chosen_BT)


def weighted(credit: Credit, factor_BT: Tensor) -> Credit:
    """Return credit whose weights are multiplied by a factor."""
    return dataclasses.replace(credit, weight_BT=credit.weight_BT * factor_BT.to(credit.weight_BT.dtype))


def draw(rollouts: Rollouts, salt: int) -> Tensor:
    """Return a number in [0, 2^53) for every token, int64 (B, T), a function of its identity and `salt` only."""
    ids = tuple(prompt.id for prompt in rollouts.prompts)
    return token_order(ids, rollouts.group_B, rollouts.sample_B, rollouts.ids_BT.shape[1], salt)


def current_or_recorded(
    credit: Credit, rollouts: Rollouts, forward: Forward | None, *, source: str = "behaviour"
) -> Tensor:
    """Return the entropy of the current policy where `forward` is given, else the recorded one.

    Raises:
        InputError: an entropy of a token that counts is not finite; the message names the place.
    """
    entropy_BT = rollouts.entropy_BT if forward is None else forward.entropy_BT
    check_finite(entropy_BT, credit.keep_BT, source)
    return entropy_BT


def check_finite(value_BT: Tensor, mask_BT: Tensor, source: str, *, of: str = "entropy") -> None:
    """Raise `InputError` where a value is not finite: a NaN would silently train on nothing."""
    bad_BT = mask_BT & ~value_BT.isfinite()
    if bad_BT.any():
        row, position = (int(i) for i in bad_BT.nonzero()[0])
        raise InputError(
            f"the {source} {of} of row {row}, position {position} is {float(value_BT[row, position])}: "
            "the logits were not finite there, so no selection is possible"
        )
