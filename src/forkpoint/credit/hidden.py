"""Weights from hidden states: which tokens tell right answers from wrong ones."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from forkpoint.credit._choice import SOURCES, check_finite, weighted
from forkpoint.credit._reading import right_answers
from forkpoint.credit.checks import check_choice, check_number
from forkpoint.credit.link import Link, State
from forkpoint.credit.transport import largest_over_spans, nearest_opposite, spans_of
from forkpoint.errors import InputError
from forkpoint.rollouts import Credit, Forward, Rollouts
from forkpoint.scope import Batching, Scope, check_scope, segment_sum, segments


def side_scores(
    gradient_NH: Tensor, pull_N: Tensor, up_N: Tensor, segment_N: Tensor, segments_count: int
) -> Tensor:  # fmt: skip
    """Return how much nearer every token's gradient lies to its own side's centroid than to the other's.

        s_t = (‖g_t - c_other‖² - ‖g_t - c_own‖²) / (‖g_t - c_other‖² + ‖g_t - c_own‖²)

    with c of a side the mean of its gradients, weighted by `pull_N`, over the token's segment.

    Args:
        gradient_NH: float (N, H), g.
        pull_N: float (N,), >= 0, how much a token pulls its centroid.
        up_N: bool (N,), which side a token is on.
        segment_N: int64 (N,).
        segments_count: number of segments.

    Returns:
        float (N,) in [-1, 1]; 0 where both distances are 0 or a segment has one side only.

    Source: the relative squared distance of arXiv 2605.21467 (DelTA), as a digest tells it.
    """
    own_N = 2 * segment_N + up_N
    mass_C = pull_N.new_zeros(2 * segments_count).index_add(0, own_N, pull_N)
    total_CH = gradient_NH.new_zeros(2 * segments_count, gradient_NH.shape[1])
    total_CH = total_CH.index_add(0, own_N, gradient_NH * pull_N[:, None])
    centroid_CH = total_CH / torch.where(mass_C > 0, mass_C, 1.0)[:, None]

    def squared(side_N: Tensor) -> Tensor:
        return (gradient_NH - centroid_CH[side_N]).square().sum(1)

    near_N, far_N = squared(own_N), squared(own_N ^ 1)
    known_N = (near_N + far_N > 0) & (mass_C[own_N] > 0) & (mass_C[own_N ^ 1] > 0)
    return torch.where(known_N, (far_N - near_N) / torch.where(known_N, near_N + far_N, 1.0), 0.0)


def soft_sides(score_N: Tensor, side_N: Tensor, sides: int, temperature: float) -> Tensor:
    """Return the share in (0, 1) of every token that belongs to its side alone.

        q_t = sigmoid(s_t / (temperature σ_side)),   σ_side² the mean square of the side's scores

    Args:
        score_N: float (N,), from `side_scores`.
        side_N: int64 (N,), numbers 0..sides-1.
        sides: how many there are.
        temperature: > 0; infinite gives 1/2 everywhere.

    Returns:
        float (N,); 1/2 where all scores of a side are 0.

    Source: "side-adaptive temperature" of arXiv 2605.21467; this form is ours.
    """
    count_C = score_N.new_zeros(sides).index_add(0, side_N, torch.ones_like(score_N)).clamp(min=1)
    width_C = (score_N.new_zeros(sides).index_add(0, side_N, score_N**2) / count_C).sqrt()
    width_N = width_C[side_N]
    return torch.sigmoid(torch.where(width_N > 0, score_N / torch.where(width_N > 0, width_N, 1.0), 0.0) / temperature)


def discriminative_weight(
    *,
    temperature: float,
    low: float = 0.8,
    high: float = 1.2,
    rounds: int = 1,
    source: Literal["current", "behaviour"] = "behaviour",
    scope: Scope = "rollout",
) -> Link:
    """Link: tokens whose gradient is typical of their side alone weigh more than those both sides share.

        g_t = (1 - π(y_t)) h_t,   s_t from `side_scores`,   q_t from `soft_sides`
        w_t = (low + (high - low) q_t) / mean

    The sides are the tokens of positive and of negative advantage; centroids weigh tokens by |A|, then `rounds`
    times by |A| q. The mean is over all tokens with an advantage, so their total weight stays what it was; tokens
    without one keep theirs, and so does a scope with one side only. `low=high` and an infinite temperature change
    nothing.

    Args:
        temperature: > 0, in units of the scores' spread; infinite is allowed.
        low: >= 0, weight before normalisation of a token that tells nothing.
        high: >= low, and > 0.
        rounds: >= 0, how often centroids are estimated anew; the paper says 1.
        source: hidden states and log-probs of the `behaviour` policy (needs `hidden`) or of the `current` one, anew
            in every update (needs `forward_hidden`).
        scope: over which tokens centroids and mean are taken.

    Raises:
        InputError: an argument outside its range, or a log-prob or a hidden state that is not finite.

    Source: arXiv 2605.21467 (DelTA).
    """
    if not (isinstance(temperature, int | float) and not isinstance(temperature, bool) and temperature > 0):
        raise InputError(f"discriminative_weight temperature is {temperature!r} and must be a number > 0")
    check_number("discriminative_weight", "low", low, low=0)
    check_number("discriminative_weight", "high", high, low=max(low, 1e-300))
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 0:
        raise InputError(f"discriminative_weight rounds is {rounds!r} and must be a whole number >= 0")
    check_choice("discriminative_weight", "source", source, SOURCES)
    check_scope(scope)

    def update(
        credit: Credit, rollouts: Rollouts, *, forward: Forward | None, batching: Batching, state: State, **_: Any
    ) -> tuple[Credit, State]:
        advantage_BT = credit.advantage_BT
        counted_BT = credit.keep_BT & (advantage_BT != 0)
        if low == high or temperature == float("inf") or not counted_BT.any():
            return credit, state
        now = forward if source == "current" else None
        hidden_NH = _hidden(rollouts, now, counted_BT, advantage_BT.dtype)[counted_BT]
        logp_BT = rollouts.logp_BT if now is None else now.logp_BT
        check_finite(logp_BT, counted_BT, source, of="log-prob")
        gradient_NH = hidden_NH * -torch.expm1(logp_BT[counted_BT].to(hidden_NH.dtype))[:, None]
        segment_B = segments(scope, group_B=rollouts.group_B, batching=batching)
        segment_N = segment_B[:, None].expand_as(counted_BT)[counted_BT]
        pull_N, up_N, count = advantage_BT[counted_BT].abs(), advantage_BT[counted_BT] > 0, int(segment_B.max()) + 1
        belongs_N = torch.ones_like(pull_N)
        for _round in range(rounds + 1):
            score_N = side_scores(gradient_NH, pull_N * belongs_N, up_N, segment_N, count)
            belongs_N = soft_sides(score_N, 2 * segment_N + up_N, 2 * count, temperature)
        raw_N = low + (high - low) * belongs_N
        mean_S = segment_mean(raw_N, segment_N, count)
        factor_BT = torch.ones_like(advantage_BT)
        factor_BT[counted_BT] = raw_N / mean_S[segment_N]
        return weighted(credit, factor_BT), state

    return Link(
        name="discriminative_weight",
        stage="weight",
        arguments={
            "temperature": temperature, "low": low, "high": high, "rounds": rounds, "source": source, "scope": scope,
        },
        update=update,
        when="update" if source == "current" or scope in ("micro", "mini") else "rollout",
        scope=scope,
        needs=frozenset({"forward", "forward_hidden"} if source == "current" else {"hidden"}),
        adds=False,
    )  # fmt: skip


def segment_mean(value_N: Tensor, segment_N: Tensor, count: int) -> Tensor:
    """Return the mean of values over each segment, (count,); 1 where a segment has none."""
    size_S = value_N.new_zeros(count).index_add(0, segment_N, torch.ones_like(value_N))
    total_S = value_N.new_zeros(count).index_add(0, segment_N, value_N)
    return torch.where(size_S > 0, total_S / size_S.clamp(min=1), 1.0)


def span_distance_weight(
    *,
    epsilon: float,
    width: int = 100,
    stride: int = 25,
    iterations: int = 50,
    source: Literal["current", "behaviour"] = "behaviour",
) -> Link:
    """Link: tokens weigh by how far their surroundings lie from every answer of the other outcome.

        w_t = max_{k ∋ t} d_k,   d_k = min_{o opposite} W_ε(span_k, span_o) / n̄

    with spans of hidden states, W_ε the entropic transport cost under the Euclidean distance and n̄ the mean length
    of a hidden state in the group. Groups with one outcome only keep their weights.

    Args:
        epsilon: > 0, in units of n̄; the smaller, the closer to the transport distance and the slower to converge.
        width: >= 1 tokens a span.
        stride: in [1, width], tokens from one span to the next.
        iterations: >= 1, of Sinkhorn.
        source: hidden states of the `behaviour` policy (needs `hidden`) or of the `current` one, anew in every update
            (needs `forward_hidden`).

    Returns:
        A link whose number of transports grows with the square of the number of spans in a group.

    Raises:
        InputError: an argument outside its range, or a hidden state that is not finite.

    Source: arXiv 2604.23318 (SHEAR).
    """
    check_number("span_distance_weight", "epsilon", epsilon, low=0, open_low=True)
    for name, value, most in (("width", width, None), ("stride", stride, width), ("iterations", iterations, None)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
            raise InputError(
                f"span_distance_weight {name} is {value!r} and must be a whole number from 1"
                + (f" to the width {most}" if most is not None else "")
            )

    check_choice("span_distance_weight", "source", source, SOURCES)

    def update(
        credit: Credit, rollouts: Rollouts, *, forward: Forward | None, state: State, **_: Any
    ) -> tuple[Credit, State]:
        mask_BT, dtype = rollouts.mask_BT, credit.weight_BT.dtype
        if not mask_BT.any():
            return credit, state
        right_B, judged_B = right_answers(rollouts)
        judged_B1 = judged_B[:, None]
        hidden_BTH = _hidden(rollouts, forward if source == "current" else None, mask_BT & judged_B1, dtype)
        group_B = torch.unique(rollouts.group_B, return_inverse=True)[1]
        length_BT = torch.where(mask_BT & judged_B1, hidden_BTH.norm(dim=2), 0.0)
        count_S = segment_sum((mask_BT & judged_B1).sum(1), group_B).clamp(min=1)
        scale_S = segment_sum(length_BT.sum(1), group_B) / count_S
        scale_B = torch.where(scale_S > 0, scale_S, 1.0)[group_B]
        spans = spans_of(mask_BT.sum(1), width=width, stride=stride)
        distance_K = nearest_opposite(
            hidden_BTH, spans, group_B, right_B, judged_B & ~right_B, scale_B=scale_B, epsilon=epsilon,
            iterations=iterations,
        )  # fmt: skip
        distance_K = torch.where(distance_K.isinf(), 1.0, distance_K)
        factor_BT = largest_over_spans(distance_K, spans, mask_BT.shape)
        return weighted(credit, torch.where(mask_BT, factor_BT, 1.0)), state

    return Link(
        name="span_distance_weight",
        stage="weight",
        arguments={
            "epsilon": epsilon, "width": width, "stride": stride, "iterations": iterations, "source": source,
        },
        update=update,
        when="update" if source == "current" else "rollout",
        scope="group",
        needs=frozenset({"reward", "forward", "forward_hidden"} if source == "current" else {"reward", "hidden"}),
        adds=False,
    )  # fmt: skip


def _hidden(rollouts: Rollouts, forward: Forward | None, mask_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the current hidden states where `forward` is given, else the recorded ones, checked where masked."""
    place = "Rollouts.extra" if forward is None else "Forward.extra"
    hidden_BTH = rollouts.extra["hidden"] if forward is None else forward.extra["hidden"]
    if hidden_BTH.ndim != 3 or hidden_BTH.shape[:2] != mask_BT.shape:
        raise InputError(
            f"{place}['hidden'] has shape {tuple(hidden_BTH.shape)} and must be (B, T, H) with "
            f"(B, T) = {tuple(mask_BT.shape)}"
        )
    check_finite(
        hidden_BTH.sum(2, dtype=dtype), mask_BT, "behaviour" if forward is None else "current", of="hidden state"
    )
    return hidden_BTH.to(dtype)
