"""Selection without a signal: tokens drawn at random with their inclusion probability, and tokens by identity."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from forkpoint.credit._choice import DENOMINATORS, choose, draw
from forkpoint.credit.checks import check_choice, check_number
from forkpoint.credit.link import Link, State
from forkpoint.errors import InputError
from forkpoint.rollouts import Credit, Rollouts

_DRAWS = float(1 << 53)


def inclusion_of_prefix(length_B: Tensor, T: int, least: float) -> Tensor:
    """Return the probability that a token survives a cut drawn evenly from the last part of its answer.

        π_t = 1                       t <= m
        π_t = (n - t + 1)/(n - m + 1) m < t <= n,     m = max(1, ceil(least n))

    for positions t = 1..n and a cut drawn evenly from {m, …, n}.

    Args:
        length_B: int64 (B,), n.
        T: number of positions.
        least: in [0, 1], the fraction of an answer that is always kept.

    Returns:
        float64 (B, T), 0 beyond the answer.

    >>> inclusion_of_prefix(torch.tensor([4]), 5, 0.5)
    tensor([[1.0000, 1.0000, 0.6667, 0.3333, 0.0000]], dtype=torch.float64)
    """
    n_B1, m_B1 = length_B[:, None].double(), _always_kept(length_B, least)[:, None].double()
    t_1T = torch.arange(1, T + 1, device=length_B.device)[None].double()
    inside_BT = ((n_B1 - t_1T + 1) / (n_B1 - m_B1 + 1)).clamp(min=0, max=1)
    return torch.where(t_1T <= m_B1, 1.0, inside_BT) * (t_1T <= n_B1)


def _always_kept(length_B: Tensor, least: float) -> Tensor:
    wanted_B = ((least * length_B.double() * 1e9).round() / 1e9).ceil().to(torch.int64)
    return torch.minimum(wanted_B.clamp(min=1), length_B)


def sampled_tokens(*, share: float = 0.5) -> Link:
    """Link: every token learns with a given probability, and weighs the more the smaller that is.

        w_t = 1/share with probability share, else 0

    The weight is 1 in expectation, so loss and gradient are those of all tokens in expectation, whatever the
    share (Horvitz-Thompson): a control for every selection, and a cheaper update where the head skips tokens that
    do not learn. Tokens that are left out stay in the denominator. Drawn anew in every update from the token's
    identity, so order and cut of the rows do not matter. `share=1` changes nothing.

    Args:
        share: in (0, 1], the probability of a token.

    Source: the uniform sampling of arXiv 2603.06619 (NAT); estimator of Horvitz and Thompson (1952).
    """
    check_number("sampled_tokens", "share", share, low=0, high=1, open_low=True)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, rng: int, **_: Any) -> tuple[Credit, State]:
        if share == 1:
            return credit, state
        chosen_BT = draw(rollouts, rng).double() < share * _DRAWS
        return dataclasses.replace(credit, weight_BT=credit.weight_BT * chosen_BT / share), state

    return Link(
        name="sampled_tokens",
        stage="selection",
        arguments={"share": share},
        update=update,
        when="update",
        adds=False,
    )


def sampled_prefix(*, least: float = 0.5) -> Link:
    """Link: every answer learns up to a cut drawn at random, its later tokens weighing the more.

        w_t = [t <= cut]/π_t,   cut drawn evenly from {m, …, n}

    with π_t of `inclusion_of_prefix`. The weight is 1 in expectation; unlike `sampled_tokens` the tokens that
    learn come first, so the forward pass can end at the cut too. `least=1` changes nothing.

    Args:
        least: in [0, 1], the fraction of an answer that is always kept; the weight of its last token is the number
            of tokens beyond it plus one.

    Source: the random prefix cut of arXiv 2603.06619 (NAT), whose abstract alone could be read: how it draws the
    cut is not known.
    """
    check_number("sampled_prefix", "least", least, low=0, high=1)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, rng: int, **_: Any) -> tuple[Credit, State]:
        length_B, T = rollouts.mask_BT.sum(1), rollouts.mask_BT.shape[1]
        if least == 1 or T == 0:
            return credit, state
        m_B = _always_kept(length_B, least)
        unit_B = draw(rollouts, rng)[:, 0].double() / _DRAWS
        cut_B = m_B + (unit_B * (length_B - m_B + 1)).floor().to(torch.int64)
        kept_BT = torch.arange(1, T + 1, device=cut_B.device)[None] <= cut_B[:, None]
        inclusion_BT = inclusion_of_prefix(length_B, T, least)
        factor_BT = torch.where(kept_BT & rollouts.mask_BT, 1 / inclusion_BT, 0.0).to(credit.weight_BT.dtype)
        return dataclasses.replace(credit, weight_BT=credit.weight_BT * factor_BT), state

    return Link(
        name="sampled_prefix",
        stage="selection",
        arguments={"least": least},
        update=update,
        when="update",
        adds=False,
    )


def without_ids(*, ids: Sequence[int] = (), denominator: Literal["selected", "all"] = "all") -> Link:
    """Link: tokens with the given vocabulary ids do not learn.

        w_t = [y_t ∉ ids]

    Without ids it changes nothing.

    Args:
        ids: vocabulary ids, for example from `rock_ids`.
        denominator: `all` silences them and leaves them in the loss's denominator, `selected` drops them from it.

    Raises:
        InputError: an id that is not a whole number >= 0.

    Source: the intervention of arXiv 2605.09253 (rock tokens), which sets their loss to zero.
    """
    given = sorted(set(ids))
    for token in given:
        if isinstance(token, bool) or not isinstance(token, int) or token < 0:
            raise InputError(f"without_ids has {token!r} among its ids: a vocabulary id is a whole number >= 0")
    check_choice("without_ids", "denominator", denominator, DENOMINATORS)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        if not given:
            return credit, state
        listed = torch.tensor(given, device=rollouts.ids_BT.device)
        return choose(credit, ~torch.isin(rollouts.ids_BT, listed), denominator), state

    return Link(
        name="without_ids",
        stage="selection",
        arguments={"ids": given, "denominator": denominator},
        update=update,
        drops=denominator == "selected" and bool(given),
        adds=False,
    )


def without_truncated(*, denominator: Literal["selected", "all"] = "selected") -> Link:
    """Link: answers that were cut off at the length limit do not learn.

    Their rewards stay in the statistics of their group. Where every answer ended by itself nothing changes.

    Args:
        denominator: `selected` drops their tokens from the loss's denominator, `all` silences them and leaves them
            in it.

    Source: arXiv 2503.14476 sec. 3.4 (overlong filtering); TRL's `mask_truncated_completions`.
    """
    check_choice("without_truncated", "denominator", denominator, DENOMINATORS)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        ended = [finish != "length" for finish in rollouts.finish]
        ended_B1 = torch.tensor(ended, dtype=torch.bool, device=credit.keep_BT.device)[:, None]
        return choose(credit, ended_B1, denominator), state

    return Link(
        name="without_truncated",
        stage="selection",
        arguments={"denominator": denominator},
        update=update,
        scope="sequence",
        drops=denominator == "selected",
        adds=False,
    )


def rock_ids(kl_BT: Tensor, ids_BT: Tensor, mask_BT: Tensor, *, count: int = 100, skip: int = 5) -> list[int]:
    """Return the vocabulary ids on which a student stays furthest from its teacher in total.

        R(v) = Σ_{t: y_t = v} KL_t,    the `count` largest after leaving out the `skip` most frequent ids

    that is frequency times mean KL. Ids of equal score or frequency are ordered by id.

    Args:
        kl_BT: float (B, T), KL(student ‖ teacher) of every position in nats.
        ids_BT: int64 (B, T), the tokens at them.
        mask_BT: bool (B, T), positions that count.
        count: >= 0, how many ids to return at most; ids with score 0 or less are never returned.
        skip: >= 0, how many of the most frequent ids to leave out.

    Returns:
        ids, the largest score first.

    Source: arXiv 2605.09253 v2, README and `rock_detection` of its code.

    >>> kl = torch.tensor([[0.1, 0.1, 0.1, 2.0, 0.5]])
    >>> rock_ids(kl, torch.tensor([[7, 7, 7, 3, 4]]), kl > 0, count=2, skip=1)
    [3, 4]
    """
    known, index_N = torch.unique(ids_BT[mask_BT], return_inverse=True)
    score = torch.zeros(known.numel(), dtype=torch.float64, device=known.device)
    score = score.index_add(0, index_N, kl_BT[mask_BT].double())
    frequency = torch.bincount(index_N, minlength=known.numel())
    frequent = torch.argsort(frequency, descending=True, stable=True)[:skip]
    score[frequent] = -torch.inf
    best = torch.argsort(score, descending=True, stable=True)[:count]
    return [int(v) for v in known[best[score[best] > 0]]]
