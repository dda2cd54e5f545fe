"""Runs that learn from different shares of the tokens, side by side: the paper's ablation.

Source: arXiv 2506.01939, figure 7.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forkpoint.analyze import drawing
from forkpoint.analyze.measures.training_curves import ArmResult, arm_of_run, plot_arms, share_ablation
from forkpoint.analyze.rundata import RunData, number
from forkpoint.analyze.views.analysis_page import drawn
from forkpoint.analyze.views.page import Panel
from forkpoint.errors import InputError

_KINDS = {"top": "the most uncertain", "bottom": "the least uncertain", "random": "random tokens"}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which tokens of a run learn."""

    share: float
    """In (0, 1]."""
    keep: str = "top"
    """`top`, or the controls `bottom` and `random`."""

    def __str__(self) -> str:
        """Return `20 %`, with what is kept where that is not the top."""
        words = f"{100 * self.share:g} %"
        return words if self.keep == "top" or self.share == 1 else f"{words} {self.keep}"


def selection_of(run: RunData) -> Selection | None:
    """Return which tokens a run learns from, by the credit chain its recipe resolved to.

    Returns:
        All tokens where no link selects; None where the recipe names no chain, or several links select.
    """
    chain = run.recipe.get("chain")
    if not isinstance(chain, list) or not chain:
        return None
    found = []
    for link in chain:
        arguments: Any = link.get("arguments") if isinstance(link, Mapping) else None
        if isinstance(arguments, Mapping) and "share" in arguments:
            share, keep = number(arguments["share"]), arguments.get("keep", "top")
            if not 0 < share <= 1 or keep not in _KINDS:
                return None
            found.append(Selection(share=share, keep=keep))
    return None if len(found) > 1 else found[0] if found else Selection(share=1.0)


def share_panels(names: Sequence[str], runs: Sequence[RunData], *, others_differ: bool = False) -> list[Panel]:
    """Return the figures of the ablation; none where the runs do not differ in the share that learns.

    Args:
        names: of the runs.
        runs: from `forkpoint.analyze.rundata.read_run`.
        others_differ: their recipes differ outside the credit too, which the caption then says.
    """
    chosen = [(name, run, found) for name, run in zip(names, runs, strict=True) if (found := selection_of(run))]
    if len({(found.share, found.keep) for _, _, found in chosen}) < 2:
        return []
    chosen.sort(key=lambda item: (item[2].share, item[2].keep, item[0]))
    unknown = [name for name in names if name not in {name for name, _, _ in chosen}]
    more = f" Not here, as its share is not known: {', '.join(unknown)}." if unknown else ""
    if others_differ:
        more += " The recipes differ in other settings too, so the share alone does not explain the differences."

    def accuracies() -> tuple[str, str]:
        arms = [arm_of_run(run, label=name, share=found.share) for name, run, found in chosen]
        results = [share_ablation([arm])[0] for arm in arms]
        if not any(math.isfinite(result.accuracy.value) for result in results):
            raise InputError("no run has an evaluation with an accuracy")
        full = sum(arm.share == 1 for arm in arms)
        said = _differences(share_ablation(arms)) if full == 1 else ""
        return _plot(results, [found.keep for _, _, found in chosen]), f"{said}{more}"

    def curves() -> tuple[str, str]:
        arms = [arm_of_run(run, label=f"{found} ({name})", share=found.share) for name, run, found in chosen]
        bound = any("entropy_lower_bound/mean" in record for _, run, _ in chosen for record in run.metrics)
        return plot_arms(arms, name="share-curves", shown=("accuracy", "length") if bound else _SHOWN), more.strip()

    panels = [
        drawn(
            "Accuracy by share of tokens that learn",
            "Last accuracy of every run with its 95 % interval, which covers the draw of problems and answers to them "
            "but not another seed.",
            accuracies,
        )
    ]
    if len(chosen) <= drawing.READABLE:
        caption = "Accuracy with 95 % intervals, length of the answers, and entropy over all tokens of a step."
        panels.append(drawn("Learning from shares of the tokens", caption, curves))
    return panels


_SHOWN = ("accuracy", "length", "entropy")


def _plot(results: Sequence[ArmResult], keeps: Sequence[str]) -> str:
    """Draw the last accuracy of every run over the share it learns from, one series a kind of selection."""
    figure, (axes,) = drawing.panels()
    kinds = [kind for kind in _KINDS if kind in keeps]
    places: dict[float, int] = {}
    for result, keep in zip(results, keeps, strict=True):
        # Runs of one share stand side by side.
        at = result.share + 0.012 * places.setdefault(result.share, 0)
        places[result.share] += 1
        first = next(r for r, k in zip(results, keeps, strict=True) if k == keep) is result
        ends = result.accuracy
        drawing.points(
            axes, [at], [ends.value], [ends.low], [ends.high], kinds.index(keep), _KINDS[keep] if first else ""
        )
    axes.set_xlim(0.0, 1.06)
    drawing.percent(axes, "x")
    drawing.percent(axes)
    drawing.finish(axes, "share of response tokens that learns", "last accuracy")
    if len(kinds) > 1:
        drawing.legend(figure, axes, len(kinds))
    words = "; ".join(f"{result.label}, {result.share:.0%}: {result.accuracy.value:.1%}" for result in results)
    return drawing.to_svg(figure, "share-accuracy", f"Accuracy by share of tokens that learn. {words}.")


def _differences(results: Sequence[ArmResult]) -> str:
    """Return how the runs differ from the one that learns from all tokens."""
    found = [
        f"{result.label} {100 * result.difference.value:+.1f} points "
        f"({100 * result.difference.low:+.1f} to {100 * result.difference.high:+.1f})"
        for result in results
        if math.isfinite(result.difference.value)
    ]
    if not found:
        return ""
    return (
        f"Against learning from all tokens, as if the problems were independent: {'; '.join(found)}; the table of "
        "results pairs them where it can."
    )
