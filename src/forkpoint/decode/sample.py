"""Sampling one token a row from logits, with the log-prob and entropy of the full distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from forkpoint.decode.answers import Sampling, TwoTemperatures


def sample_token(
    logits_RV: Tensor,
    uniform_R: Tensor,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    two: TwoTemperatures | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one token a row by inverting the cumulative distribution, and measure the distribution.

    Log-prob and entropy are those of softmax(logits / temperature) over the full vocabulary, before top-k and
    top-p: the policy that the update differentiates. With top-k = 0 and top-p = 1 tokens are drawn from it.

    Args:
        logits_RV: (rows, V).
        uniform_R: float64 (rows,) in [0, 1), one number a row decides its token.
        temperature: > 0, or 0 for the most likely token, measured at temperature 1.
        top_p: in (0, 1], keep the smallest set of most likely tokens with at least this mass (of what top_k left).
        top_k: keep the k most likely tokens; 0 keeps all.
        two: draw at one temperature where entropy is high and at another elsewhere; only with `temperature` 1, at
            which log-prob and entropy are still measured.

    Returns:
        (id_R int64, logp_R float32, entropy_R float32), entropies in nats.

    >>> z = torch.tensor([[0.0, 0.0]])
    >>> sample_token(z, torch.tensor([0.7], dtype=torch.float64))[0]
    tensor([1])
    """
    z_RV = logits_RV.float()
    logp_RV = torch.log_softmax(z_RV if temperature in (0.0, 1.0) else z_RV / temperature, dim=-1)
    p_RV = logp_RV.exp()
    # A probability of zero times the lowest finite number is zero; times -inf it would be NaN.
    entropy_R = -(p_RV * logp_RV.clamp(min=torch.finfo(torch.float32).min)).sum(-1)
    if temperature == 0:
        logp_R, id_R = logp_RV.max(-1)
        return id_R, logp_R, entropy_R
    drawn_RV = logp_RV if two is None else torch.log_softmax(two_temperature(logp_RV, entropy_R, two), dim=-1)
    if two is not None or top_k > 0 or top_p < 1:
        p_RV = truncated(drawn_RV, top_p=top_p, top_k=top_k).exp()
    cumulative_RV = p_RV.cumsum(-1, dtype=wide(logits_RV.device))
    target_R1 = uniform_R[:, None].to(cumulative_RV) * cumulative_RV[:, -1:]
    id_R1 = torch.searchsorted(cumulative_RV, target_R1, right=True).clamp(max=logits_RV.shape[-1] - 1)
    return id_R1.squeeze(1), logp_RV.gather(1, id_R1).squeeze(1), entropy_R


def two_temperature(logits_RV: Tensor, entropy_R: Tensor, two: TwoTemperatures) -> Tensor:
    """Return logits to draw from: divided by one temperature at forks, by another elsewhere.

        z'_r = z_r / T_r,  T_r = fork where H_r > threshold (strictly), else other

    The entropy is that of softmax(z), at temperature 1: the paper's cut was measured there. A temperature of 0
    leaves only the most likely token (the first of equals): its logit becomes 0, all others -inf. With both
    temperatures at 1 nothing changes.

    Args:
        logits_RV: (rows, V), raw logits of the model.
        entropy_R: (rows,) nats, of softmax(logits); a NaN is not above any threshold.
        two: threshold and temperatures.

    Returns:
        (rows, V) in the dtype of the logits.

    Source: arXiv 2506.01939 section 3 and figure 3.

    >>> z = torch.tensor([[0.0, 2.0], [0.0, 2.0]])
    >>> two_temperature(z, torch.tensor([0.9, 0.1]), TwoTemperatures(threshold=0.5, fork=2.0, other=0.0))
    tensor([[0., 1.],
            [-inf, 0.]])
    """
    fork_R = entropy_R > two.threshold
    temperature_R = logits_RV.new_full(entropy_R.shape, two.other).masked_fill_(fork_R, two.fork)
    greedy_R = temperature_R == 0
    scaled_RV = logits_RV / temperature_R.masked_fill(greedy_R, 1.0)[:, None]
    best_RV = torch.full_like(logits_RV, -torch.inf).scatter(1, logits_RV.argmax(1, keepdim=True), 0.0)
    return torch.where(greedy_R[:, None], best_RV, scaled_RV)


def drawn(logits_RV: Tensor, uniform_R: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return each row's next token, and (id, log-prob, entropy) packed into one float32 (3, rows) for the host.

    float32 holds ids up to 2^24 exactly.
    """
    id_R, logp_R, entropy_R = sample_token(
        logits_RV,
        uniform_R,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        two=sampling.two,
    )
    return id_R, torch.stack([id_R.float(), logp_R, entropy_R])


def wide(device: torch.device) -> torch.dtype:
    """Return the type of cumulative sums: float32 would lose the tail of a large vocabulary; mps has no wider one."""
    return torch.float32 if device.type == "mps" else torch.float64


def truncated(logp_RV: Tensor, *, top_p: float, top_k: int) -> Tensor:
    """Return log-probs with everything outside top-k and top-p at -inf; not renormalised.

    Tokens of equal probability at the cut are ordered by id.

    >>> truncated(torch.tensor([[0.6, 0.3, 0.1]]).log(), top_p=0.7, top_k=0).exp()
    tensor([[0.6000, 0.3000, 0.0000]])
    """
    if top_k <= 0 and top_p >= 1:
        return logp_RV
    ordered_RV, by_RV = logp_RV.sort(dim=-1, descending=True, stable=True)
    drop_RV = torch.zeros_like(ordered_RV, dtype=torch.bool)
    if top_k > 0:
        drop_RV[:, top_k:] = True
    if top_p < 1:
        mass_RV = ordered_RV.exp().masked_fill(drop_RV, 0.0)
        mass_RV = mass_RV / mass_RV.sum(-1, keepdim=True)
        drop_RV |= mass_RV.cumsum(-1) - mass_RV >= top_p
    return logp_RV.masked_fill(torch.zeros_like(drop_RV).scatter(1, by_RV, drop_RV), -torch.inf)
