"""TRR++, task-relative REINFORCE++."""

from __future__ import annotations

from forkpoint.credit import Chain, aggregate, chain, clip, dual_clip
from forkpoint.credit.normalise import kind_advantage


def trr_pp(*, clip_low: float = 0.2, clip_high: float = 0.28, dual: float | None = 3.0) -> Chain:
    """REINFORCE++ whose statistics are taken for every role and task type by itself.

        A_i = (R_i - μ_kind) / σ_kind,   L = -(1 / Σ_i |o_i|) Σ_i Σ_t min(r A, clip(r, 1 - low, 1 + high) A)

    μ and σ are taken over tokens, as in REINFORCE++: a long answer weighs more. Proposing and solving, deduction,
    abduction and induction are kinds of their own, so an easy kind is no advantage. `columns.kind` names the field of
    a problem that says its kind.

    Reduces to: `reinforce_pp` when all rows are of one kind, with equal clips and without the dual clip.

    Confidence: verified — the released code was read.

    Args:
        clip_low: in [0, 1].
        clip_high: >= 0.
        dual: dual-clip constant > 1; None leaves it out.

    Source: arXiv 2505.03335 (task-relative REINFORCE++) and its code.
    """
    return chain(
        kind_advantage(),
        clip(low=clip_low, high=clip_high),
        *((dual_clip(c=dual),) if dual is not None else ()),
        aggregate(denominator="token"),
    )
