"""Forking tokens: the 80/20 rule."""

from __future__ import annotations

from typing import Any, Literal

from forkpoint.credit import Chain, aggregate, chain, clip, dual_clip, group_advantage, top_entropy
from forkpoint.errors import InputError, did_you_mean
from forkpoint.scope import Scope

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "source": "current",
        "scope": "mini",
        "ties": "count",
        "denominator": "selected",
        "keep": "top",
        "dual": None,
        "aggregation": "token",
    },
    "authors-code": {
        "source": "current",
        "scope": "micro",
        "ties": "count",
        "denominator": "selected",
        "keep": "top",
        "dual": 10.0,
        "aggregation": "micro-token",
    },
    "trl": {
        "source": "current",
        "scope": "micro",
        "ties": "threshold",
        "denominator": "all",
        "keep": "top",
        "dual": None,
        "aggregation": "token",
    },
}
"""The three public versions of "top 20 %". They are three different algorithms."""


def forking(
    *,
    share: float = 0.2,
    preset: Literal["paper", "authors-code", "trl"] = "paper",
    source: Literal["current", "behaviour"] | None = None,
    scope: Scope | None = None,
    ties: Literal["count", "threshold"] | None = None,
    denominator: Literal["selected", "all"] | None = None,
    keep: Literal["top", "bottom", "random"] | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Chain:
    """DAPO in which only the tokens with the highest entropy learn.

        L = -(1 / Σ_t 1[H_t ≥ τ]) Σ_t 1[H_t ≥ τ] min(r A, clip(r, 1 - low, 1 + high) A)

    with τ such that the given share of tokens passes. `share=1` is DAPO. The preset fixes what
    implementations disagree about; every argument given overrides it:

    | preset | entropy | scope | ties | denominator |
    |---|---|---|---|---|
    | `paper` | current policy | mini-batch | exact count | selected tokens |
    | `authors-code` | current policy | micro-batch | exact count | selected tokens of the micro-batch |
    | `trl` | current policy | micro-batch | H ≥ quantile, ties kept | all tokens |

    `authors-code` also weighs micro-batches by their rows and clips dually at 10.

    The paper's text says "(micro-)batch" where its equation says batch; `paper` takes the mini-batch, whose
    result does not depend on the micro-batch size. Version 1 of the paper divided by all tokens:
    `denominator="all"`.

    Reduces to: DAPO with `share=1`.

    Confidence: verified — paper, released code and TRL read.

    Deviations: the three presets are the paper, its released code and TRL.

    Args:
        share: in (0, 1], the fraction of tokens that learns.
        preset: `paper`, `authors-code` or `trl`.
        source: `current` or `behaviour` policy's entropy; None takes the preset's.
        scope: `sequence`, `group`, `micro`, `mini` or `rollout`; None takes the preset's.
        ties: `count` or `threshold`; None takes the preset's.
        denominator: `selected` or `all`; None takes the preset's.
        keep: `top`, or the controls `bottom` and `random`; None takes the preset's.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2506.01939 v2 eqs. 5 and 6.
    """
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r} of forking: {did_you_mean(preset, PRESETS)}")
    given = {"source": source, "scope": scope, "ties": ties, "denominator": denominator, "keep": keep}
    chosen = PRESETS[preset] | {name: value for name, value in given.items() if value is not None}
    return chain(
        group_advantage(),
        clip(low=clip_low, high=clip_high),
        *((dual_clip(c=chosen["dual"]),) if chosen["dual"] is not None else ()),
        aggregate(denominator=chosen["aggregation"]),
        top_entropy(share=share, **{name: chosen[name] for name in given}),
    )
