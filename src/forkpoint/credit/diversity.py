"""Advantages reshaped by how different the answers to one problem are."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor

from forkpoint.credit._reading import right_answers
from forkpoint.credit.checks import check_choice, check_number
from forkpoint.credit.link import Link, State
from forkpoint.credit.statistics import answer_mean
from forkpoint.errors import InputError
from forkpoint.rollouts import Credit, Rollouts
from forkpoint.scope import segment_sum

ESTIMATORS = ("count", "probability")
SHAPES = ("linear", "exponential", "focal")


def members(group_B: Tensor, class_B: Tensor) -> Tensor:
    """Return the number of every answer's (group, class) pair, int64 (B,), from 0 without gaps."""
    return torch.unique(torch.stack([group_B, class_B], 1), dim=0, return_inverse=True)[1].reshape(group_B.shape)


def diversity_shift(
    size_B: Tensor, wrong_B: Tensor, class_B: Tensor, group_B: Tensor, *, alpha: float, beta: float
) -> Tensor:
    """Return what the variety of mistakes adds to the advantage of every wrong answer, before its bound.

    With N wrong answers in the group, K kinds of mistake of shares p_k, I_i = -ln p_k(i), H = Σ_k p_k I_k and S the
    mean |A| of the wrong answers:

        Δ_i = alpha S (I_i - H) / ln N      K > 1
        Δ_i = -beta S                       K = 1, N > 1
        Δ_i = 0                             N <= 1

    Rare mistakes are punished less, common ones more; over a group the first form sums to 0.

    Args:
        size_B: float (B,), |A| of every answer.
        wrong_B: bool (B,), the answers that take part.
        class_B: int64 (B,), kind of mistake; read where `wrong_B`.
        group_B: int64 (B,).
        alpha: >= 0.
        beta: >= 0.

    Returns:
        float (B,), 0 for answers that are not wrong.

    Source: arXiv 2605.17333, README of its code.
    """
    class_B = torch.where(wrong_B, class_B, torch.zeros_like(class_B))
    segment_B, pair_B = torch.unique(group_B, return_inverse=True)[1], members(group_B, class_B)
    wrong = wrong_B.to(size_B.dtype)
    count_B = segment_sum(wrong, segment_B)[segment_B]
    alike_B = segment_sum(wrong, pair_B)[pair_B]
    surprise_B = torch.where(wrong_B, (count_B.clamp(min=1) / alike_B.clamp(min=1)).log(), 0.0)
    # The mean of I over the wrong answers is Σ_k p_k I_k.
    mean_B = segment_sum(surprise_B, segment_B)[segment_B] / count_B.clamp(min=1)
    scale_B = segment_sum(wrong * size_B, segment_B)[segment_B] / count_B.clamp(min=1)
    varied_B = alpha * scale_B * (surprise_B - mean_B) / count_B.clamp(min=2).log()
    shift_B = torch.where(alike_B == count_B, -beta * scale_B, varied_B)
    return torch.where(wrong_B & (count_B > 1), shift_B, 0.0)


def semantic_entropy(
    cluster_B: Tensor, group_B: Tensor, judged_B: Tensor, logp_B: Tensor | None = None, *, dtype: torch.dtype
) -> Tensor:
    """Return the semantic entropy of every answer's group as a share of the largest possible, (B,).

        SE = -(1/K) Σ_k ln p(C_k),      result SE / ln n

    over the K clusters of a group's n judged answers. p(C_k) is |C_k| / n, or with `logp_B` the summed probability of
    the cluster's answers, the literal form, whose result has no upper bound.

    Args:
        cluster_B: int64 (B,), which answers are the same answer.
        group_B: int64 (B,).
        judged_B: bool (B,).
        logp_B: float (B,), log-prob of every whole answer, or None to count.
        dtype: of the result.

    Returns:
        float (B,); 0 for a group of one answer or of one cluster (when counting).

    Source: arXiv 2505.12346 sec. 3.2.

    >>> one = torch.zeros(4, dtype=torch.int64)
    >>> semantic_entropy(torch.tensor([0, 0, 1, 1]), one, one == 0, dtype=torch.float32)
    tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    segment_B, pair_B = torch.unique(group_B, return_inverse=True)[1], members(group_B, cluster_B)
    judged = judged_B.to(dtype)
    count_B = segment_sum(judged, segment_B)[segment_B]
    alike_B = segment_sum(judged, pair_B)[pair_B].clamp(min=1)
    if logp_B is None:
        log_B = (alike_B / count_B.clamp(min=1)).log()
    else:
        logp_B = torch.where(judged_B, logp_B.to(dtype), -torch.inf)
        top_S = logp_B.new_full((logp_B.shape[0],), -torch.inf).scatter_reduce(0, pair_B, logp_B, "amax")
        top_B = torch.where(top_S.isfinite(), top_S, 0.0)[pair_B]
        log_B = top_B + segment_sum((logp_B - top_B).exp(), pair_B)[pair_B].clamp(min=1e-30).log()
    share_B = torch.where(judged_B, 1 / alike_B, 0.0)  # every cluster once
    clusters_B = segment_sum(share_B, segment_B)[segment_B].clamp(min=1)
    entropy_B = -segment_sum(share_B * torch.where(judged_B, log_B, 0.0), segment_B)[segment_B] / clusters_B
    return torch.where(count_B > 1, entropy_B / count_B.clamp(min=2).log(), 0.0)


def error_diversity(*, alpha: float = 0.4, beta: float = 0.2, cap: float = 2.0) -> Link:
    """Link: wrong answers with a rare mistake are punished less, those with a common one more.

        A_i ← A_i + sign(Δ_i) min(|Δ_i|, |A_i| / cap)      for wrong answers, Δ from `diversity_shift`

    Answers that are right keep their advantage. With `alpha=0, beta=0` it changes nothing; `cap > 1` never turns a
    sign. To ramp it up, put it into a schedule (`forkpoint.credit.control.scheduled_chain`).

    Args:
        alpha: >= 0, strength where mistakes differ.
        beta: >= 0, strength where all make the same mistake.
        cap: > 1, κ.

    Returns:
        A link that needs `error_class`: the kind of mistake, int64 (B,); an answer that cannot be read has a class of
        its own kind.
    """
    check_number("error_diversity", "alpha", alpha, low=0)
    check_number("error_diversity", "beta", beta, low=0)
    check_number("error_diversity", "cap", cap, low=1, open_low=True)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        right_B, judged_B = right_answers(rollouts)
        size_B = answer_mean(credit.advantage_BT.abs(), credit.keep_BT)
        wrong_B = judged_B & ~right_B
        class_B, group_B = rollouts.extra["error_class"].long(), rollouts.group_B
        shift_B = diversity_shift(size_B, wrong_B, class_B, group_B, alpha=alpha, beta=beta)
        bounded_BT = torch.minimum(shift_B.abs()[:, None], credit.advantage_BT.abs() / cap)
        advantage_BT = credit.advantage_BT + shift_B.sign()[:, None] * bounded_BT
        return dataclasses.replace(credit, advantage_BT=advantage_BT), state

    return Link(
        name="error_diversity",
        stage="advantage",
        arguments={"alpha": alpha, "beta": beta, "cap": cap},
        update=update,
        scope="group",
        needs=frozenset({"reward", "error_class"}),
        adds=False,
    )


def semantic_caution(
    *,
    alpha: float = 0.02,
    shape: Literal["linear", "exponential", "focal"] = "linear",
    gamma: float | None = None,
    estimator: Literal["count", "probability"] = "count",
) -> Link:
    """Link: problems whose answers differ in meaning are learned from with less force.

        A_i ← A_i f(alpha SE / ln n),   f(x) = 1 - x | exp(-x) | (1 - x)^gamma      (f >= 0)

    with SE / ln n from `semantic_entropy`. `alpha=0` changes nothing.

    Args:
        alpha: >= 0.
        shape: `linear`, `exponential` or `focal`.
        gamma: > 0, exponent of `focal`; the paper prints none.
        estimator: `count` keeps SE / ln n in [0, 1]; `probability` sums the recorded probabilities of whole answers.

    Returns:
        A link that needs `cluster`: which answers of a group are the same answer, int64 (B,).
    """
    check_number("semantic_caution", "alpha", alpha, low=0)
    check_choice("semantic_caution", "shape", shape, SHAPES)
    check_choice("semantic_caution", "estimator", estimator, ESTIMATORS)
    if shape == "focal" and gamma is None:
        raise InputError("semantic_caution with shape 'focal' needs gamma, the exponent: the paper prints none")
    if gamma is not None:
        check_number("semantic_caution", "gamma", gamma, low=0, open_low=True)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        judged_B = right_answers(rollouts)[1]
        dtype = credit.advantage_BT.dtype
        counted = estimator == "count"
        logp_B = None if counted else torch.where(rollouts.mask_BT, rollouts.logp_BT, 0.0).to(dtype).sum(1)
        entropy_B = semantic_entropy(rollouts.extra["cluster"].long(), rollouts.group_B, judged_B, logp_B, dtype=dtype)
        x_B = alpha * entropy_B
        factor_B = (-x_B).exp() if shape == "exponential" else (1 - x_B).clamp(min=0)
        if shape == "focal":
            assert gamma is not None  # noqa: S101 - checked above
            factor_B = factor_B**gamma
        return dataclasses.replace(credit, advantage_BT=credit.advantage_BT * factor_B[:, None]), state

    return Link(
        name="semantic_caution",
        stage="advantage",
        arguments={"alpha": alpha, "shape": shape, "gamma": gamma, "estimator": estimator},
        update=update,
        scope="group",
        needs=frozenset({"reward", "cluster"}),
        adds=False,
    )
