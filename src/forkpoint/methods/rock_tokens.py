"""Rock tokens: vocabulary entries that never learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from forkpoint.credit import Chain, chain
from forkpoint.credit.sampled import without_ids
from forkpoint.methods.dapo import dapo


def rock_tokens(
    *,
    ids: Sequence[int] = (),
    denominator: Literal["selected", "all"] = "all",
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Chain:
    """DAPO in which listed vocabulary entries do not learn.

        w_t = [y_t ∉ ids],   ids the largest R(v) = Σ_{t: y_t = v} KL_t

    `forkpoint methods rocks` finds the ids from a student's recorded answers and a teacher; a recipe takes its list
    as `"credit.ids=$(cat rocks.json)"`.

    Reduces to: DAPO without ids.

    Confidence: verified — score, the 5 most frequent ids left out and the top 100 are those of the paper's code.

    Deviations: the paper silences them in on-policy distillation, here the same mask stands in DAPO. For
    distillation, chain `kl` towards a reference that is the teacher with `without_ids` and `denominator="selected"`:
    `all` silences the surrogate alone and leaves a KL term as it is.

    Args:
        ids: vocabulary ids.
        denominator: `all` silences them and leaves them in the loss's denominator, `selected` drops them from it.
        clip_low: in [0, 1].
        clip_high: >= 0.

    Source: arXiv 2605.09253 v2; `rock_detection` of its repository.
    """
    return chain(dapo(clip_low=clip_low, clip_high=clip_high), without_ids(ids=ids, denominator=denominator))
