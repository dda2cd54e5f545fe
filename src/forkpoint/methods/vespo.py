"""VESPO."""

from __future__ import annotations

from forkpoint.credit import Chain, aggregate, chain, group_advantage, stop_ratio
from forkpoint.credit.offpolicy import gamma_weight


def vespo(
    *, k_positive: float = 2.0, lambda_positive: float = 3.0, k_negative: float = 3.0, lambda_negative: float = 2.0
) -> Chain:
    """REINFORCE with one soft weight an answer, by how likely the whole of it has become.

        L = -(1 / Σ_i |y_i|) Σ_i φ(w_i) A Σ_t log π,   φ(w) = w^k exp(λ (1 - w)),   w_i = π(y_i) / π_old(y_i)

    with k and λ by the sign of A. The product over the answer is not normalised by its length.

    Reduces to: DAPO's gradient on the first update after sampling; REINFORCE with all four numbers 0.

    Confidence: inspired — the loss and its numbers as TRL implements them for this paper, whose abstract alone was
    read.

    Deviations: TRL may fold the ratio of training to sampling engine into w; the link `gamma_weight` can, too.

    Args:
        k_positive: >= 0, where A >= 0; a large k silences answers that have become less probable.
        lambda_positive: >= 0, where A >= 0; a large λ silences answers that have become more probable.
        k_negative: >= 0, where A < 0.
        lambda_negative: >= 0, where A < 0.

    Source: arXiv 2602.10693; numbers of TRL 1.16.
    """
    return chain(
        group_advantage(),
        stop_ratio(cap=1.0, floor=1.0),
        gamma_weight(
            k_positive=k_positive, lambda_positive=lambda_positive,
            k_negative=k_negative, lambda_negative=lambda_negative,
        ),
        aggregate(denominator="token"),
    )  # fmt: skip
