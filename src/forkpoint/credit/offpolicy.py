"""Weights for answers and tokens that come from another policy than the one that learns."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from forkpoint.credit._choice import weighted
from forkpoint.credit.checks import check_choice, check_number
from forkpoint.credit.link import Link, State
from forkpoint.errors import InputError
from forkpoint.rollouts import Credit, Forward, Rollouts

MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
LOWEST = math.log(1e-8)
HIGHEST = 20.0
"""Logarithms of the importance weight of an answer are clamped to [ln 1e-8, 20], as in the code of VESPO."""


def gamma_weight(
    *,
    k_positive: float = 2.0,
    lambda_positive: float = 3.0,
    k_negative: float = 3.0,
    lambda_negative: float = 2.0,
    engine: Literal["none", "token_truncate", "token_mask"] = "none",
    engine_low: float | None = None,
    engine_high: float | None = 3.0,
) -> Link:
    """Link: a weight an answer that is 1 on the policy that sampled and falls on both sides of it.

        φ(w) = w^k exp(λ (1 - w)),   w = π(y) / π_old(y) over the whole answer, not its mean

    k and λ are chosen by the sign of the advantage; φ is largest at w = k/λ. `k=0, λ=0` changes nothing.

    Args:
        k_positive: >= 0, where A >= 0; a large k silences answers that have become less probable.
        lambda_positive: >= 0, where A >= 0; a large λ silences answers that have become more probable.
        k_negative: >= 0, where A < 0.
        lambda_negative: >= 0, where A < 0.
        engine: multiply w by `engine_ratio` of the tokens, in that mode.
        engine_low: see `engine_ratio`.
        engine_high: see `engine_ratio`.

    Source: arXiv 2602.10693 (VESPO), as TRL 1.16 implements it.
    """
    arguments = {
        "k_positive": k_positive, "lambda_positive": lambda_positive,
        "k_negative": k_negative, "lambda_negative": lambda_negative,
    }  # fmt: skip
    for name, value in arguments.items():
        check_number("gamma_weight", name, value, low=0)
    check_choice("gamma_weight", "engine", engine, ("none", "token_truncate", "token_mask"))
    _check_bounds("gamma_weight", engine_low, engine_high)

    def update(
        credit: Credit, rollouts: Rollouts, *, forward: Forward | None, state: State, **_: Any
    ) -> tuple[Credit, State]:
        assert forward is not None  # noqa: S101 - checked by check_needs
        log_B1 = _moved(forward, rollouts).clamp(-HIGHEST, HIGHEST).sum(1, keepdim=True)
        if engine != "none":
            ratio_BT = engine_ratio(rollouts, mode=engine, low=engine_low, high=engine_high)
            log_B1 = log_B1 + ratio_BT.log().clamp(LOWEST, HIGHEST).sum(1, keepdim=True)
        log_B1 = log_B1.clamp(LOWEST, HIGHEST).to(credit.advantage_BT.dtype)
        falls_BT = credit.advantage_BT < 0
        k_BT, lambda_BT = (
            torch.where(falls_BT, log_B1.new_tensor(falling), log_B1.new_tensor(rising))
            for falling, rising in ((k_negative, k_positive), (lambda_negative, lambda_positive))
        )
        return weighted(credit, (lambda_BT * (1 - log_B1.exp()) + k_BT * log_B1).exp()), state

    return Link(
        name="gamma_weight",
        stage="weight",
        arguments={**arguments, "engine": engine, "engine_low": engine_low, "engine_high": engine_high},
        update=update,
        when="update",
        scope="sequence",
        needs=frozenset({"forward"} if engine == "none" else {"forward", "sampler_logp"}),
        adds=False,
    )


def stale_mask(*, threshold: float) -> Link:
    """Link: bad answers that the policy has moved far away from do not learn; they stay in the denominator.

        w = 0 where A < 0 and mean_t (log π_old - log π) > threshold, the mean over the answer's tokens

    An infinite threshold changes nothing.

    Args:
        threshold: > 0, in nats a token.

    Source: arXiv 2512.02556 eq. 9 (DeepSeek-V3.2); TRL's `off_policy_mask_threshold`.
    """
    if threshold != math.inf:
        check_number("stale_mask", "threshold", threshold, low=0, open_low=True)

    def update(
        credit: Credit, rollouts: Rollouts, *, forward: Forward | None, state: State, **_: Any
    ) -> tuple[Credit, State]:
        assert forward is not None  # noqa: S101 - checked by check_needs
        length_B1 = rollouts.mask_BT.sum(1, keepdim=True).clamp(min=1)
        away_B1 = -_moved(forward, rollouts).sum(1, keepdim=True) / length_B1
        return weighted(credit, ~((credit.advantage_BT < 0) & (away_B1 > threshold))), state

    return Link(
        name="stale_mask",
        stage="weight",
        arguments={"threshold": threshold},
        update=update,
        when="update",
        scope="sequence",
        needs=frozenset({"forward"}),
        adds=False,
    )


def divergence_mask(*, measure: Literal["variation", "kl"] = "variation", low: float = 0.2, high: float = 0.28) -> Link:
    """Link: tokens whose own probability has moved too far the way their advantage pushes do not learn.

        variation:  |π - π_old|
        kl:         π_old log(π_old / π) + (1 - π_old) log((1 - π_old) / (1 - π))

    of the two outcomes "this token" and "any other"; a token that moved against its push learns. Bounds on the ratio
    hold rare tokens tightest, these hold them least. Infinite bounds change nothing.

    Args:
        measure: of how far the policy has moved.
        low: >= 0, the most where A <= 0 and the token has become less probable.
        high: >= 0, the most where A > 0 and the token has become more probable.

    Source: arXiv 2602.04879 (DPPO, binary divergences), as in verl.
    """
    check_choice("divergence_mask", "measure", measure, ("variation", "kl"))
    for name, value in (("low", low), ("high", high)):
        if value != math.inf:
            check_number("divergence_mask", name, value, low=0)

    def update(
        credit: Credit, rollouts: Rollouts, *, forward: Forward | None, state: State, **_: Any
    ) -> tuple[Credit, State]:
        assert forward is not None  # noqa: S101 - checked by check_needs
        dtype, mask_BT = credit.advantage_BT.dtype, rollouts.mask_BT
        new_BT, old_BT = (torch.where(mask_BT, x, 0.0).to(dtype) for x in (forward.logp_BT, rollouts.logp_BT))
        gap_BT = new_BT.exp() - old_BT.exp()
        if measure == "kl":
            old_rest_BT, rest_BT = ((1 - x.exp()).clamp(min=0) + 1e-8 for x in (old_BT, new_BT))
            far_BT = old_BT.exp() * (old_BT - new_BT) + (1 - old_BT.exp()) * (old_rest_BT / rest_BT).log()
        else:
            far_BT = gap_BT.abs()
        beyond_BT = torch.where(credit.advantage_BT > 0, (far_BT > high) & (gap_BT > 0), (far_BT > low) & (gap_BT < 0))
        return weighted(credit, ~beyond_BT), state

    return Link(
        name="divergence_mask",
        stage="weight",
        arguments={"measure": measure, "low": low, "high": high},
        update=update,
        when="update",
        scope="sequence",
        needs=frozenset({"forward"}),
        adds=False,
    )


def engine_ratio(rollouts: Rollouts, *, mode: str, low: float | None = None, high: float | None = 3.0) -> Tensor:
    """Return π_old / π_sampler, where the log-probs at hand were taken again and the engine that sampled had others.

        token_*:     of every token                    *_truncate:  clamp to [low, high]
        sequence_*:  of the whole answer, its product  *_mask:      0 outside [low, high]

    Args:
        rollouts: `logp_BT` is log π_old, `extra["sampler_logp"]` log π_sampler; where that is NaN the ratio is 1.
        mode: one of the four.
        low: >= 0; None leaves that side open.
        high: >= low; None leaves that side open.

    Returns:
        float (B, T), 1 on padding unless the whole answer is outside.

    Source: truncation and masking as TRL's `vllm_importance_sampling_mode`.
    """
    dtype = torch.promote_types(rollouts.logp_BT.dtype, torch.float32)
    sampled_BT, again_BT = rollouts.extra["sampler_logp"].to(dtype), rollouts.logp_BT.to(dtype)
    log_BT = torch.where(rollouts.mask_BT & ~sampled_BT.isnan(), again_BT - sampled_BT, 0.0)
    if mode.startswith("sequence"):
        log_BT = log_BT.sum(1, keepdim=True).expand_as(log_BT)
    ratio_BT = log_BT.exp()
    if mode.endswith("truncate"):
        return ratio_BT.clamp(min=low, max=high) if low is not None or high is not None else ratio_BT
    outside_BT = torch.zeros_like(rollouts.mask_BT)
    outside_BT = outside_BT if low is None else outside_BT | (ratio_BT < low)
    outside_BT = outside_BT if high is None else outside_BT | (ratio_BT > high)
    return torch.where(outside_BT, 0.0, ratio_BT)


def engine_correction(
    *,
    mode: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = "sequence_mask",
    low: float | None = None,
    high: float | None = 3.0,
) -> Link:
    """Link: weigh tokens by how much more the model that trains likes them than the engine that sampled them did.

    For callers whose `logp_BT` was taken again with the training model: the importance ratio is then against that
    model, and this weight makes up for the rest. Where `logp_BT` is the engine's own, the importance ratio holds
    both and no correction is due. See `engine_ratio`.

    Args:
        mode: whether the ratio is a token's or an answer's, and whether it is clamped or cut off.
        low: >= 0; None leaves that side open.
        high: >= low; None leaves that side open.

    Returns:
        A link that needs `sampler_logp`.
    """
    check_choice("engine_correction", "mode", mode, MODES)
    _check_bounds("engine_correction", low, high)

    def update(credit: Credit, rollouts: Rollouts, *, state: State, **_: Any) -> tuple[Credit, State]:
        ratio_BT = engine_ratio(rollouts, mode=mode, low=low, high=high)
        return weighted(credit, torch.where(rollouts.mask_BT, ratio_BT, 1.0)), state

    return Link(
        name="engine_correction",
        stage="weight",
        arguments={"mode": mode, "low": low, "high": high},
        update=update,
        scope="sequence",
        needs=frozenset({"sampler_logp"}),
        adds=False,
    )


def _moved(forward: Forward, rollouts: Rollouts) -> Tensor:
    """Return log π - log π_old, 0 on padding whatever the padding holds."""
    return torch.where(rollouts.mask_BT, forward.logp_BT, 0.0) - torch.where(rollouts.mask_BT, rollouts.logp_BT, 0.0)


def _check_bounds(link: str, low: float | None, high: float | None) -> None:
    if low is not None:
        check_number(link, "low", low, low=0)
    if high is not None:
        check_number(link, "high", high, low=0)
    if low is not None and high is not None and low > high:
        raise InputError(f"{link} low is {low} and must not be above high, {high}")
