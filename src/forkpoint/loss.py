"""The loss: the only place where gradient meets credit.

Per-token losses become one number through coefficients that are fixed before the first backward pass, so the
loss of a mini-batch is the plain sum of the losses of its micro-batches, however it is cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from forkpoint.credit.link import Chain
from forkpoint.errors import InputError, did_you_mean
from forkpoint.rollouts import Credit, Forward, Penalty, Rollouts
from forkpoint.scope import Batching, segment_sum, segments

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to ± this, so that exp cannot overflow; exp(20) is far beyond any clip."""


def log_ratio(logp_BT: Tensor, rollouts: Rollouts) -> Tensor:
    """Return log π(y) - log π_old(y), 0 on padding whatever the padding holds."""
    difference_BT = torch.where(rollouts.mask_BT, logp_BT, 0.0) - torch.where(rollouts.mask_BT, rollouts.logp_BT, 0.0)
    return difference_BT.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def importance_ratio(logp_BT: Tensor, rollouts: Rollouts, credit: Credit) -> Tensor:
    """Return the importance ratio on which the bounds act, of every token, shape (B, T).

        token, stop:  r_t = exp(log π - log π_old)
        sequence:     s_i = exp(mean over the answer's tokens of log π - log π_old)
        mean:         M_p = (mean over the answer's tokens of r_t^p)^(1/p), or r_t where the bounds are inside it

    The mean of order 0 is `sequence`.

    Source: arXiv 1707.06347 eq. 6; arXiv 2507.18071 eq. 7; arXiv 2605.12058 (mean).
    """
    log_BT = log_ratio(logp_BT, rollouts)
    if credit.ratio == "sequence":
        length_B1 = rollouts.mask_BT.sum(1, keepdim=True).clamp(min=1)
        log_BT = (log_BT.sum(1, keepdim=True) / length_B1).expand_as(log_BT)
    elif credit.ratio == "mean" and not credit.inner_bounds:
        log_BT = log_power_mean(log_BT, rollouts.mask_BT, credit.order)
    return log_BT.exp()


def log_power_mean(log_BT: Tensor, mask_BT: Tensor, order: float) -> Tensor:
    """Return the logarithm of the mean of order p of exp(x) over each row, at every position of the row.

        p ≠ 0:  (logsumexp_t(p x_t) - log n) / p        p = 0:  mean_t x_t

    Orders below 1e-6 in size count as 0. A row without tokens gives 0.

    >>> x = torch.tensor([[0.5, 1.0, 2.0]]).log()
    >>> log_power_mean(x, x > -9, -1.0).exp()
    tensor([[0.8571, 0.8571, 0.8571]])
    """
    length_B1 = mask_BT.sum(1, keepdim=True)
    if abs(order) < 1e-6:
        mean_B1 = torch.where(mask_BT, log_BT, 0.0).sum(1, keepdim=True) / length_B1.clamp(min=1)
        return mean_B1.expand_as(log_BT)
    # A row of -inf alone would have a gradient of NaN.
    scaled_BT = torch.where(mask_BT | (length_B1 == 0), order * torch.where(mask_BT, log_BT, 0.0), -torch.inf)
    total_B1 = scaled_BT.logsumexp(1, keepdim=True) - length_B1.clamp(min=1).to(log_BT.dtype).log()
    return torch.where(length_B1 > 0, total_B1 / order, 0.0).expand_as(log_BT)


def surrogate(logp_BT: Tensor, rollouts: Rollouts, credit: Credit) -> Tensor:
    """Return the clipped policy loss of every token, before weights, penalties and aggregation.

        token, sequence, mean:  -min(r A, clamp(r, low, high) A); with dual clip the min is at least c A where A < 0
        mean of bounded ratios: -M_p(r') A,  r' = min(r, high) where A > 0 and max(r, low) where A < 0
        stop:                   -sg(clamp(r, low, high)) A log π
        with a gate:            -4/τ sigmoid(τ (r - 1)) A,  τ by the sign of A

    With open bounds and r = 1 the gradient is REINFORCE's, -A ∇log π. Where `scaled_low` or `scaled_high` say so, a
    ratio beyond its bound keeps the gradient of bound * r / sg(r); `unclipped` tokens have -r A.

    Args:
        logp_BT: float (B, T), current log-probs with gradient.
        rollouts: the rows, with the behaviour policy's log-probs.
        credit: advantages, ratio kind, bounds and dual clip.

    Returns:
        float (B, T).

    Source: arXiv 1707.06347 eq. 7; dual clip arXiv 1912.09729 eq. 5; stop arXiv 2506.13585 eq. 4; mean of bounded
    ratios arXiv 2507.20673; gate arXiv 2511.20347.
    """
    ratio_BT = importance_ratio(logp_BT, rollouts, credit)
    bounded_BT = _bound(ratio_BT, credit)
    advantage_BT = credit.advantage_BT
    if credit.ratio == "stop":
        return -bounded_BT.detach() * advantage_BT * torch.where(rollouts.mask_BT, logp_BT, 0.0)
    if credit.ratio == "mean" and credit.inner_bounds:
        rising_BT, falling_BT = torch.minimum(ratio_BT, bounded_BT), torch.maximum(ratio_BT, bounded_BT)
        inner_BT = torch.where(advantage_BT > 0, rising_BT, torch.where(advantage_BT < 0, falling_BT, ratio_BT))
        ratio_BT = bounded_BT = log_power_mean(inner_BT.log(), rollouts.mask_BT, credit.order).exp()
    if credit.gate is not None:
        open_BT = torch.zeros_like(credit.keep_BT) if credit.unclipped_BT is None else credit.unclipped_BT
        return -torch.where(open_BT, ratio_BT, _gated(ratio_BT, advantage_BT, credit.gate)) * advantage_BT
    gain_BT = torch.minimum(ratio_BT * advantage_BT, bounded_BT * advantage_BT)
    if credit.dual_clip is not None:
        floor_BT = torch.maximum(gain_BT, credit.dual_clip * advantage_BT)
        floored_BT = advantage_BT < 0 if credit.unclipped_BT is None else (advantage_BT < 0) & ~credit.unclipped_BT
        gain_BT = torch.where(floored_BT, floor_BT, gain_BT)
    return -gain_BT


def _gated(ratio_BT: Tensor, advantage_BT: Tensor, gate: tuple[float, float]) -> Tensor:
    up, down = ratio_BT.new_tensor(gate)
    temperature_BT = torch.where(advantage_BT > 0, up, down)
    return torch.sigmoid(temperature_BT * (ratio_BT - 1)) * 4 / temperature_BT


def _bound(ratio_BT: Tensor, credit: Credit) -> Tensor:
    # clamp, not maximum and minimum: a ratio that sits exactly on a bound keeps its whole gradient.
    if credit.low_BT is None and credit.high_BT is None:
        return ratio_BT
    bounded_BT = ratio_BT.clamp(min=credit.low_BT, max=credit.high_BT)
    unit_BT = None
    for scaled_BT, bound_BT, beyond in (
        (credit.scaled_low_BT, credit.low_BT, torch.lt),
        (credit.scaled_high_BT, credit.high_BT, torch.gt),
    ):
        if scaled_BT is not None and bound_BT is not None:
            unit_BT = ratio_BT / ratio_BT.detach() if unit_BT is None else unit_BT
            bounded_BT = torch.where(scaled_BT & beyond(ratio_BT, bound_BT), bound_BT * unit_BT, bounded_BT)
    return bounded_BT if credit.unclipped_BT is None else torch.where(credit.unclipped_BT, ratio_BT, bounded_BT)


def entropy_loss(forward: Forward, credit: Credit) -> Tensor:
    """Return Σ slope * H + offset over the entropy terms and tokens of some rows, a scalar."""
    value = torch.zeros((), dtype=credit.advantage_BT.dtype, device=credit.advantage_BT.device)
    for term in credit.entropy_terms:
        entropy_BT = forward.entropy_BT if term.of == "entropy" else forward.extra[term.of]
        known_BT = torch.where(term.slope_BT != 0, entropy_BT, 0.0)
        value = value + (term.slope_BT * known_BT).sum() + term.offset_BT.sum()
    return value


def penalty_loss(penalty: Penalty, logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return coefficient * form(Δ) of every token with Δ = target - log π; see `forkpoint.credit.kl`.

    One form is not there:

        hinge:  k3(-Δ) - k3(±δ) where |Δ| > δ, the sign that of -Δ; 0 elsewhere    (arXiv 2604.16972)
    """
    delta_BT = torch.where(mask_BT, penalty.target_logp_BT, 0.0) - torch.where(mask_BT, logp_BT, 0.0)
    delta_BT = delta_BT.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    if penalty.form.endswith("+"):
        square_BT = delta_BT**2 / 2
        value_BT = _FORMS[penalty.form[:-1]](delta_BT)
        return penalty.coefficient_BT * (square_BT + (value_BT - square_BT).detach())
    if penalty.form == "hinge":
        edge_BT = -penalty.threshold * delta_BT.sign()
        excess_BT = _FORMS["k3"](-delta_BT) - _FORMS["k3"](edge_BT)
        return penalty.coefficient_BT * torch.where(delta_BT.abs() > penalty.threshold, excess_BT, 0.0)
    return penalty.coefficient_BT * _FORMS[penalty.form](delta_BT)


_FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": lambda d: -d,
    "k2": lambda d: d**2 / 2,
    "k3": lambda d: torch.expm1(d) - d,
    "abs": torch.abs,
}


def token_losses(logp_BT: Tensor, rollouts: Rollouts, credit: Credit) -> Tensor:
    """Return weight * surrogate + penalties of every token, 0 where it does not count.

    A corrected penalty is multiplied by the importance ratio (arXiv 2512.02556).
    """
    loss_BT = surrogate(logp_BT, rollouts, credit) * credit.weight_BT
    for penalty in credit.penalties:
        cost_BT = penalty_loss(penalty, logp_BT, rollouts.mask_BT)
        ratio_BT = importance_ratio(logp_BT, rollouts, credit) if penalty.corrected else 1.0
        loss_BT = loss_BT + cost_BT * ratio_BT
    return torch.where(credit.keep_BT, loss_BT, 0.0)


def coefficients(credit: Credit, rollouts: Rollouts, batching: Batching) -> Tensor:
    """Return the factor of every token's loss in its mini-batch's loss.

    With K the counted tokens (`keep`), n_i those of answer i, R the answers that have any, B all answers:

        token:        1 / |K|                          (DAPO; 80/20 with dropped tokens)
        sequence:     1 / (R n_i)                      (GRPO)
        constant:     1 / (R constant)                 (Dr. GRPO)
        micro-token:  (B_m / B) / |K_m|, m the token's micro-batch   (release of the 80/20 paper)

    Args:
        credit: `keep_BT`, `denominator` and `constant` are read.
        rollouts: the rows.
        batching: mini-batch of every row, and micro-batch for `micro-token`.

    Returns:
        float (B, T), 0 where a token does not count. For `token` and `sequence` they sum to 1 per mini-batch.

    Source: arXiv 2503.14476 eq. 8 (token), 2402.03300 eq. 3 (sequence), 2503.20783 sec. 3.2 (constant).
    """
    keep_BT = credit.keep_BT
    keep = keep_BT.to(credit.advantage_BT.dtype)
    mini_B = segments("mini", group_B=rollouts.group_B, batching=batching)
    tokens_B = keep.sum(1)
    row_B = (tokens_B > 0).to(keep.dtype)
    rows_B = segment_sum(row_B, mini_B)[mini_B].clamp(min=1)
    if credit.denominator == "token":
        scale_B = 1 / segment_sum(tokens_B, mini_B)[mini_B].clamp(min=1)
    elif credit.denominator == "sequence":
        scale_B = 1 / (rows_B * tokens_B.clamp(min=1))
    elif credit.denominator == "constant":
        if credit.constant is None:
            raise InputError("the constant denominator needs a number of tokens: aggregate(constant=…)")
        scale_B = 1 / (rows_B * credit.constant)
    elif credit.denominator == "micro-token":
        micro_B = segments("micro", group_B=rollouts.group_B, batching=batching)
        in_mini_B = segment_sum(torch.ones_like(row_B), mini_B)[mini_B]
        in_micro_B = segment_sum(torch.ones_like(row_B), micro_B)[micro_B]
        scale_B = in_micro_B / in_mini_B / segment_sum(tokens_B, micro_B)[micro_B].clamp(min=1)
    else:
        valid = ("token", "sequence", "constant", "micro-token")
        raise InputError(f"unknown denominator {credit.denominator!r}: {did_you_mean(credit.denominator, valid)}")
    return keep * scale_B[:, None]


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss of some rows and what was measured on the way, ready to be summed over micro-batches."""

    value: Tensor
    """Scalar with gradient."""
    sums: dict[str, float]
    """Sums over tokens: `counted`, `learned`, `clipped_low`, `clipped_high`, `tokens`, `scored`, and `kl` over the
    scored ones."""


def policy_loss(chain: Chain, forward: Forward, rollouts: Rollouts, credit: Credit, coefficient_BT: Tensor) -> Loss:
    """Return the loss of some rows of a mini-batch: Σ coefficient * token loss + entropy terms + regularisers.

    Args:
        chain: its regularisers are added.
        forward: the current policy on these rows, with gradient.
        rollouts: the rows.
        credit: their credit.
        coefficient_BT: their coefficients, from `coefficients` on the whole mini-batch.

    Returns:
        `Loss`; the values of the parts of a mini-batch sum to the value of the whole.
    """
    loss_BT = token_losses(forward.logp_BT, rollouts, credit)
    value = (coefficient_BT * loss_BT).sum()
    if credit.entropy_terms:
        value = value + entropy_loss(forward, credit)
    for regularise in chain.regularisers:
        value = value + regularise(forward, rollouts, credit, coefficient_BT)
    return Loss(value=value, sums=_measure(forward, rollouts, credit))


def _measure(forward: Forward, rollouts: Rollouts, credit: Credit) -> dict[str, float]:
    logp_BT = forward.logp_BT.detach()
    scored_BT = rollouts.mask_BT if forward.scored_BT is None else forward.scored_BT
    keep_BT, advantage_BT = credit.keep_BT, credit.advantage_BT
    ratio_BT = importance_ratio(logp_BT, rollouts, credit)
    learns_BT = keep_BT & (credit.weight_BT * advantage_BT != 0)
    clips_BT = learns_BT if credit.unclipped_BT is None else learns_BT & ~credit.unclipped_BT
    below_BT = torch.zeros_like(keep_BT) if credit.low_BT is None else ratio_BT < credit.low_BT
    above_BT = torch.zeros_like(keep_BT) if credit.high_BT is None else ratio_BT > credit.high_BT
    k3_BT = torch.expm1(log_ratio(logp_BT, rollouts)) - log_ratio(logp_BT, rollouts)
    return {
        "counted": float((keep_BT & (credit.weight_BT != 0)).sum()),
        "learned": float(learns_BT.sum()),
        "clipped_low": float((below_BT & clips_BT & (advantage_BT < 0)).sum()),
        "clipped_high": float((above_BT & clips_BT & (advantage_BT > 0)).sum()),
        "tokens": float(rollouts.mask_BT.sum()),
        "scored": float(scored_BT.sum()),
        "kl": float(torch.where(scored_BT, k3_BT, 0.0).sum()),
    }
