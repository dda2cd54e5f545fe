"""Regularisers whose value is a function of all entropies of a mini-batch, written as its linearisation."""

from __future__ import annotations

import math
from typing import Literal

import torch

from forkpoint.credit._choice import segment_quantile
from forkpoint.credit._terms import Seen, term_link
from forkpoint.credit.checks import check_choice, check_number
from forkpoint.credit.covariance import token_covariance
from forkpoint.credit.link import Link, State
from forkpoint.credit.statistics import token_count, token_mean, value_range
from forkpoint.rollouts import EntropyTerm
from forkpoint.scope import Scope, segment_sum, segments


def entropy_target(*, target: float = 0.55, coefficient: float = 0.001) -> Link:
    """Link: hold the mean entropy near a target, from both sides.

        loss += coefficient |H̄ - target|,   H̄ = mean_t H_t

    over the tokens of the mini-batch that learn. `coefficient=0` changes nothing.

    Args:
        target: >= 0, in nats.
        coefficient: >= 0, in loss per nat.

    Source: Confucius3-Math technical report (arXiv 2506.18330) sec. 6.
    """
    check_number("entropy_target", "target", target, low=0)
    check_number("entropy_target", "coefficient", coefficient, low=0)

    def term(seen: Seen, state: State) -> tuple[EntropyTerm, State]:
        away_S = token_mean(seen.entropy_BT, seen.mask_BT, seen.mini_B) - target
        slope_S = coefficient * away_S.sign() / seen.tokens_S.clamp(min=1)
        return seen.term(coefficient * away_S.abs() * (seen.tokens_S > 0), slope_S[seen.mini_B][:, None]), state

    return term_link("entropy_target", {"target": target, "coefficient": coefficient}, term, active=coefficient > 0)


def adaptive_entropy_bonus(
    *,
    target: float = 0.2,
    delta: float = 0.005,
    start: float = 0.0,
    low: float = 0.0,
    high: float = 1.0,
    gate: Literal["current", "previous"] = "current",
) -> Link:
    """Link: an entropy bonus that grows while entropy is below a target, and rests above it.

        loss -= α H̄,   α = c 1[H̄ <= target]
        c ← clamp(c ± delta, low, high)   up where H̄ <= target, else down, after the update

    over the tokens of the mini-batch that learn. `delta=0` with an infinite target is `entropy_bonus` of coefficient
    `start` under the token denominator.

    Args:
        target: >= 0, in nats.
        delta: >= 0, step of c an update.
        start: c before the first update.
        low: least c.
        high: largest c.
        gate: whether the entropy of the `current` update decides about its own bonus (the paper) or that of the
            `previous` one (TRL), with no bonus in the first.

    Source: arXiv 2505.22312 (Skywork-OR1).
    """
    for name, value in (("delta", delta), ("start", start), ("low", low), ("high", high)):
        check_number("adaptive_entropy_bonus", name, value, low=0)
    if target != math.inf:
        check_number("adaptive_entropy_bonus", "target", target, low=0)
    check_choice("adaptive_entropy_bonus", "gate", gate, ("current", "previous"))

    def term(seen: Seen, state: State) -> tuple[EntropyTerm, State]:
        mean_S = token_mean(seen.entropy_BT, seen.mask_BT, seen.mini_B)
        everything = float(token_mean(seen.entropy_BT, seen.mask_BT, torch.zeros_like(seen.mini_B)).sum())
        c, last = float(state["coefficient"]), state["entropy"]
        if gate == "current":
            active_S = (mean_S <= target).to(mean_S.dtype)
        else:
            active_S = torch.full_like(mean_S, float(last is not None and last <= target))
        slope_S = -c * active_S / seen.tokens_S.clamp(min=1)
        moved = min(c + delta, high) if everything <= target else max(c - delta, low)
        return seen.term(-c * active_S * mean_S, slope_S[seen.mini_B][:, None]), {
            "coefficient": moved,
            "entropy": everything,
        }

    return term_link(
        "adaptive_entropy_bonus",
        {"target": target, "delta": delta, "start": start, "low": low, "high": high, "gate": gate},
        term,
        init=lambda: {"coefficient": start, "entropy": None},
    )


def peak_entropy_anchor(*, coefficient: float = 0.005, quantile: float = 0.8, nucleus: bool = True) -> Link:
    """Link: hold the entropy of every answer's forks near what it was in the first update.

        loss += coefficient (H̄ - H̄_first)²
        H̄ = mean_i mean_{t in S_i} H_t,   S_i = {t: H_t > quantile of answer i}

    H is the entropy of the nucleus of the current policy (`Forward.extra["nucleus_entropy"]`), or of the whole
    distribution with `nucleus=False`. Answers whose entropies are all equal have no fork and do not count.
    `coefficient=0` changes nothing.

    Args:
        coefficient: >= 0, in loss per squared nat.
        quantile: in [0, 1).
        nucleus: whether H is taken over the nucleus; the paper's nucleus has mass 0.8.

    Source: arXiv 2509.25133 and its code.
    """
    check_number("peak_entropy_anchor", "coefficient", coefficient, low=0)
    check_number("peak_entropy_anchor", "quantile", quantile, low=0, high=1)

    def term(seen: Seen, state: State) -> tuple[EntropyTerm, State]:
        row_B = torch.arange(seen.mini_B.numel(), device=seen.mini_B.device)
        cut_B = segment_quantile(seen.entropy_BT, seen.mask_BT, quantile, row_B)
        fork_BT = seen.mask_BT & (seen.entropy_BT > cut_B[:, None])
        forks_B = fork_BT.sum(1).to(seen.entropy_BT.dtype)
        mean_B = torch.where(fork_BT, seen.entropy_BT, 0.0).sum(1) / forks_B.clamp(min=1)
        rows_S = segment_sum((forks_B > 0).to(mean_B.dtype), seen.mini_B)
        mean_S = segment_sum(mean_B, seen.mini_B) / rows_S.clamp(min=1)
        anchor = state["anchor"]
        if anchor is None and bool((rows_S > 0).any()):
            anchor = float(mean_S[rows_S > 0].mean())
        away_S = torch.where(rows_S > 0, mean_S - (0.0 if anchor is None else anchor), 0.0)
        slope_B = (2 * coefficient * away_S / rows_S.clamp(min=1))[seen.mini_B] / forks_B.clamp(min=1)
        return seen.term(coefficient * away_S**2, slope_B[:, None] * fork_BT), {"anchor": anchor}

    return term_link(
        "peak_entropy_anchor",
        {"coefficient": coefficient, "quantile": quantile, "nucleus": nucleus},
        term,
        active=coefficient > 0,
        init=lambda: {"anchor": None},
        of="nucleus_entropy" if nucleus else "entropy",
    )


def covariance_bonus(
    *,
    coefficient: float,
    temperature: float = 1.0,
    cap: float = 100.0,
    tokens: Literal["thinking", "all"] = "thinking",
    scope: Scope = "mini",
) -> Link:
    """Link: an entropy bonus on the tokens whose log-prob and advantage move together.

        loss -= coefficient Σ_t w_t H_t,   w = min(softmax(Cov / temperature), cap / N), made to sum to 1

    Cov is `token_covariance` over the N tokens of the scope. Large temperatures give every token the same weight.
    `coefficient=0` changes nothing.

    Args:
        coefficient: >= 0, in loss per nat.
        temperature: > 0, in nats times advantage.
        cap: >= 1, the largest weight in units of the mean.
        tokens: those of the thinking phase, or all.
        scope: over which tokens the weights sum to 1; several segments of a mini-batch are averaged.

    Source: arXiv 2508.03178 (TEA-RL), by a third party's code.
    """
    check_number("covariance_bonus", "coefficient", coefficient, low=0)
    check_number("covariance_bonus", "temperature", temperature, low=0, open_low=True)
    check_number("covariance_bonus", "cap", cap, low=1)
    check_choice("covariance_bonus", "tokens", tokens, ("thinking", "all"))

    def term(seen: Seen, state: State) -> tuple[EntropyTerm, State]:
        mask_BT = seen.mask_BT
        if tokens == "thinking":
            mask_BT = mask_BT & seen.rollouts.extra["thinking"].bool()
        part_B = segments(scope, group_B=seen.rollouts.group_B, batching=seen.batching)
        cov_BT = token_covariance(seen.forward.logp_BT, seen.credit.advantage_BT, mask_BT, part_B) / temperature
        top_S = value_range(cov_BT, mask_BT, part_B)[1]
        raw_BT = torch.where(mask_BT, (cov_BT - top_S[part_B][:, None]).exp(), 0.0)
        count_S = token_count(mask_BT, part_B, raw_BT.dtype).clamp(min=1)
        share_BT = raw_BT / segment_sum(raw_BT.sum(1), part_B).clamp(min=1e-30)[part_B][:, None]
        share_BT = torch.minimum(share_BT, (cap / count_S)[part_B][:, None]) * mask_BT
        share_BT = share_BT / segment_sum(share_BT.sum(1), part_B).clamp(min=1e-30)[part_B][:, None]
        # Every mini-batch averages the segments that lie in it.
        filled_S = token_count(mask_BT, part_B, raw_BT.dtype) > 0
        mini_of_S = torch.zeros_like(top_S, dtype=torch.int64).scatter(0, part_B, seen.mini_B)
        parts_S = segment_sum(filled_S.to(raw_BT.dtype), mini_of_S).clamp(min=1)
        slope_BT = -coefficient * share_BT / parts_S[seen.mini_B][:, None]
        value_S = segment_sum((slope_BT * torch.where(mask_BT, seen.entropy_BT, 0.0)).sum(1), seen.mini_B)
        return seen.term(value_S, slope_BT), state

    return term_link(
        "covariance_bonus",
        {"coefficient": coefficient, "temperature": temperature, "cap": cap, "tokens": tokens, "scope": scope},
        term,
        active=coefficient > 0,
        more=frozenset({"reward", "thinking"} if tokens == "thinking" else {"reward"}),
    )
