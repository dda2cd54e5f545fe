"""How training moved entropies: the same answers read by the first, every kept and the last model of a run.

Source: arXiv 2506.01939, table 1 and figure 4.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forkpoint.analyze.measures.flat import check_share, of_responses
from forkpoint.analyze.measures.paper_figures import ChangeByPercentile, change_by_percentile, plot_change_by_percentile
from forkpoint.analyze.measures.paper_tables import OverlapTable, overlap_over_checkpoints, plot_overlap
from forkpoint.analyze.studies.runs import Moment
from forkpoint.analyze.studies.study import Study, json_ready, percent, percents
from forkpoint.analyze.studies.subject import Say
from forkpoint.analyze.traces.scoring import score_tokens
from forkpoint.analyze.views.page import Panel
from forkpoint.errors import InputError
from forkpoint.model import HeadKind, precision


@dataclass(frozen=True, kw_only=True)
class CheckpointStudy:
    """Overlap and change over the models that could be read."""

    overlap: OverlapTable
    change: ChangeByPercentile
    base: int
    """Step of the first model."""
    final: int
    """Step of the last one, which wrote the answers."""
    missing: dict[int, str]
    """Step to why its model could not be read."""


def checkpoint_study(
    moments: Sequence[Moment],
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    problem: Sequence[Hashable] | None = None,
    share: float = 0.2,
    bins: int = 20,
    temperature: float = 1.0,
    head: HeadKind = "fused",
    dtype: str = "float32",
    say: Say = lambda line: None,
) -> CheckpointStudy:
    """Return overlap of top-share positions and entropy change, with all models reading the same answers.

    One model is in memory at a time. Of each, the entropies of all tokens stay (4 bytes a token).

    Args:
        moments: models in the order of training; one that cannot be read is named in `missing`.
        prompts: token ids that precede each answer.
        answers: token ids, written by the last model.
        problem: problem of every answer; intervals draw problems then.
        share: in (0, 1], of tokens that are compared.
        bins: of base-entropy percentiles.
        temperature: > 0, entropies are of softmax(logits / temperature).
        head: how the lm-head is computed.
        dtype: of the products.
        say: told which model is being read.

    Raises:
        InputError: fewer than two models can be read, a share out of range, or no token to compare.

    Source: arXiv 2506.01939 table 1 and figure 4.
    """
    check_share(share)
    found: dict[int, NDArray[np.float32]] = {}
    missing: dict[int, str] = {}
    for moment in moments:
        say(f"reading {sum(map(len, answers)):,} tokens with the model of step {moment.step}")
        try:
            model = moment.load()
        except InputError as error:
            missing[moment.step] = str(error)
            continue
        with precision(next(model.parameters()).device, dtype):
            scores = score_tokens(model, prompts, answers, temperature=temperature, top=0, head=head)
        found[moment.step] = scores.entropy_N
        del model
    if len(found) < 2:
        why = "; ".join(missing.values()) or "the run has no other"
        raise InputError(f"comparing takes two models of the run and {len(found)} can be read: {why}")
    offsets = of_responses([len(ids) for ids in answers])
    cluster = None if problem is None else np.unique([str(name) for name in problem], return_inverse=True)[1]
    first, last = min(found), max(found)
    return CheckpointStudy(
        overlap=overlap_over_checkpoints(found, offsets, share=share, cluster_R=cluster),
        change=change_by_percentile(found[first], found[last], offsets, bins=bins, cluster_R=cluster),
        base=first,
        final=last,
        missing=missing,
    )


def checkpoint_panels(found: CheckpointStudy) -> Study:
    """Return the two figures of the paper with what they show in words."""
    overlap, change = found.overlap, found.change
    names = _name(found.base), _name(found.final)
    left = [f"Step {step} is not shown: {reason.removesuffix('.')}." for step, reason in found.missing.items()]
    row = overlap.rows[-1].base
    shown = overlap.rows if len(overlap.rows) <= 6 else (overlap.rows[0], overlap.rows[-1])
    table = "; ".join(
        f"step {r.step} {percent(r.base.value)} with base, {percent(r.final.value)} with final" for r in shown
    )
    said = " ".join(
        [
            f"Answers of the final model ({names[1]}), read by all: {overlap.tokens:,} tokens of {overlap.responses:,} "
            f"answers. Base is {names[0]}. Bands are 95 % intervals over problems; the dotted line is what two random "
            f"sets share. Pooled: {table}.",
            *left,
        ]
    )
    return Study(
        name="checkpoints",
        panels=(
            Panel(
                title=f"Overlap of the {100 * overlap.share:g} % most uncertain positions over training",
                caption=said,
                svg=plot_overlap(overlap),
            ),
            Panel(
                title="Entropy change by base-entropy percentile",
                caption=f"Mean of final ({names[1]}) minus base ({names[0]}) entropy of the same tokens, in "
                f"{len(change.edges) - 1} bins of equal size; whiskers are 95 % intervals over problems.",
                svg=plot_change_by_percentile(change),
            ),
        ),
        numbers=json_ready(found),
        lines=(
            f"Overlap of the top {100 * overlap.share:g} % with the base at step {found.final}: "
            f"{percents(row.value, row.low, row.high)}, chance {percent(overlap.chance)}",
            *left,
        ),
    )


def _name(step: int) -> str:
    return "the model before training" if step == 0 else f"step {step}"
