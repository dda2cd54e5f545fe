"""The figures that need nothing but the tokens of a source."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from forkpoint.analyze import drawing
from forkpoint.analyze.measures.agreement import (
    advantage_mass,
    agreement,
    gradient_norm,
    plot_agreement,
    surprisal,
)
from forkpoint.analyze.measures.flat import top_pooled
from forkpoint.analyze.measures.paper_figures import entropy_histogram, plot_entropy_histogram
from forkpoint.analyze.measures.phases import entropy_by_phase, entropy_by_position, plot_phases
from forkpoint.analyze.measures.quadrants import plot_quadrants, quadrants
from forkpoint.analyze.measures.same_answer import Equality, final_answers
from forkpoint.analyze.measures.sequence import answer_clusters, semantic_entropy, window_entropy
from forkpoint.analyze.measures.sequence_plots import plot_semantic_entropy
from forkpoint.analyze.measures.token_types import TokenType, plot_word_cloud, token_types
from forkpoint.analyze.views.analysis_page import drawn
from forkpoint.analyze.views.held import Held
from forkpoint.analyze.views.page import Numbers, Panel
from forkpoint.errors import InputError

WINDOW = 4
"""Tokens in a window (arXiv 2510.08457)."""
SHARE = 0.2
_CONVENTIONS = {
    "boxed": r"what the last \boxed{} holds",
    "gsm8k": "what follows the last ####",
    "a-line": "what follows the last A:",
    "number": "the last number, since no answer is marked by \\boxed{}, #### or A:",
}


def trace_panels(held: Held, *, lower_bound: bool, min_count: int) -> tuple[dict[str, Numbers], list[Panel]]:
    """Return the tables and figures of tokens; a figure that cannot be made leaves its reason in its place.

    Args:
        held: from `forkpoint.analyze.views.held.hold`.
        lower_bound: some entropies are lower bounds, and every figure says so.
        min_count: how often a token type must occur to be ranked.
    """
    tables: dict[str, Numbers] = {}
    figures = token_figures(held, tables, lower_bound=lower_bound, min_count=min_count)
    return tables, [drawn(title, *figure) for title, figure in figures.items()]


def token_figures(
    held: Held, tables: dict[str, Numbers], *, lower_bound: bool, min_count: int
) -> dict[str, tuple[str, Callable[[], tuple[str, str]]]]:
    """Return title to caption and drawing of every figure; drawing the token types fills in their tables."""
    cluster = held.problem

    def histogram() -> tuple[str, str]:
        found = entropy_histogram(held.entropy, held.offsets, cluster_R=cluster)
        return plot_entropy_histogram({"tokens": found}, lower_bound=lower_bound), ""

    def cloud() -> tuple[str, str]:
        found = token_types(held.labels, held.entropy, held.offsets, min_count=min_count)
        tables[f"Most uncertain token types (more than {min_count} occurrences)"] = _ranking(found.most)
        tables[f"Least uncertain token types (more than {min_count} occurrences)"] = _ranking(found.least)
        return plot_word_cloud(found.most, title="Most uncertain token types"), ""

    def along() -> tuple[str, str]:
        phases = entropy_by_phase(
            held.entropy, held.offsets, held.answer_start, known_R=held.phase_known, cluster_R=cluster
        )
        places = entropy_by_position(held.entropy, held.offsets, cluster_R=cluster)
        return plot_phases(phases, places, lower_bound=lower_bound), _of_phases(held)

    def signs() -> tuple[str, str]:
        if not np.isfinite(held.advantage).any():
            raise InputError("the source does not say the advantage")
        mass = advantage_mass(held.logp, held.advantage)
        found = quadrants(held.entropy, held.advantage, mass, held.offsets, cluster_R=cluster)
        return plot_quadrants(found, lower_bound=lower_bound), ""

    def other_rules() -> tuple[str, str]:
        found = agreement(_scores(held), held.offsets, cluster_R=cluster)
        said = f"{found.tokens:,} tokens for which all of these are known." if found.left_out else ""
        if lower_bound:
            said += " Lower bounds are made from log-probs, so they agree with surprisal partly by construction."
        return plot_agreement(found), said.strip()

    return {
        "Entropy of tokens": ("Counts on a logarithmic axis; the line is the 80th percentile.", histogram),
        "Token types by mean entropy": (
            "The most uncertain types; the tables below rank both ends, with 95 % intervals over responses, cut at 0.",
            cloud,
        ),
        "Entropy along the answer": ("Left: by phase of the answer. Right: by position.", along),
        f"Entropy in windows of {WINDOW} tokens": (
            f"Mean entropy of a token and the {WINDOW - 1} after it, beside that of single tokens: uncertainty that "
            "lasts, rather than one uncertain token.",
            lambda: _windows(held, lower_bound),
        ),
        "Semantic entropy": (
            "How spread the final answers to one problem are: entropy over clusters of answers that the verifier "
            "calls equal.",
            lambda: _semantic(held),
        ),
        "Advantage sign and entropy": ("Shares of tokens, entropy and gradient size.", signs),
        "Would other rules pick the same tokens?": ("Rank correlation and Jaccard index.", other_rules),
    }


def _scores(held: Held) -> dict[str, Any]:
    """Return what tokens could be selected by besides entropy, as far as the source knows it everywhere."""
    scores: dict[str, Any] = {"entropy": held.entropy, "surprisal": surprisal(held.logp)}
    advantage = held.advantage if np.isfinite(held.advantage).all() else None
    if advantage is not None:
        scores["|advantage| (1 - p)"] = advantage_mass(held.logp, advantage)
    if np.isfinite(held.collision).all():
        scores["gradient norm"] = gradient_norm(held.logp, held.collision, 1.0 if advantage is None else advantage)
    # Rows too long to hold their attention weights have none: the others still compare.
    if np.isfinite(held.attention).any():
        scores["attention entropy"] = held.attention
    return scores


def _of_phases(held: Held) -> str:
    """Return what the figure of phases must say of where they come from."""
    unknown = int((~held.phase_known).sum())
    if unknown == 0:
        return ""
    who = "The source does not label phases" if unknown == len(held.phase_known) else f"{unknown:,} have no label"
    if held.marker is None:
        return f"{who}, so answers are taken whole; --marker '</think>' names the text that ends the thinking."
    return f"{who}, and the marker {drawing.plain(repr(held.marker))} is in no response, so answers are taken whole."


def _windows(held: Held, lower_bound: bool) -> tuple[str, str]:
    window = window_entropy(held.entropy, held.offsets, width=WINDOW)
    full = np.isfinite(window)
    if not full.any():
        raise InputError(f"no answer has {WINDOW} tokens in a row with an entropy")
    shown = {
        "tokens": entropy_histogram(held.entropy, held.offsets, cluster_R=held.problem),
        "windows": entropy_histogram(window, held.offsets, cluster_R=held.problem),
    }
    token, spread = (top_pooled(values[full].astype(np.float64), SHARE) for values in (held.entropy, window))
    both = float((token & spread).sum()) / float((token | spread).sum())
    said = (
        f"The {full.sum():,} windows that fit into their answers are drawn. The tokens with the {100 * SHARE:g} % "
        f"highest entropies and those with the highest windows have a Jaccard index of {both:.2f}."
    )
    return plot_entropy_histogram(shown, name="window-entropy", lower_bound=lower_bound), said


def _semantic(held: Held) -> tuple[str, str]:
    ended = [finish != "length" for finish in held.finish]
    found = final_answers(held.completion, ended)
    groups = list(zip(held.step.tolist(), held.problem.tolist(), strict=True))
    size = Counter(groups)
    several = [place for place, group in enumerate(groups) if size[group] > 1]
    if not several:
        raise InputError("no problem has two or more answers: sample several to each")
    chosen = [found.answers[place] for place in several]
    if all(answer is None for answer in chosen):
        raise InputError("no final answer was found in the texts: mark them with \\boxed{}, #### or A:")
    prompts = [groups[place] for place in several]
    with Equality() as equal:
        clusters = answer_clusters(chosen, prompts, equal)
    entropies = semantic_entropy(clusters, prompts)
    verdicts: dict[tuple[int, int], Counter[str | None]] = {group: Counter() for group in entropies.prompts}  # type: ignore[misc]
    for place in several:
        verdicts[groups[place]][held.verdict[place]] += 1
    judged = np.array([counts["right"] + counts["wrong"] for counts in verdicts.values()])
    right = np.array([counts["right"] for counts in verdicts.values()])
    accuracy = np.where(judged > 0, right / np.maximum(judged, 1), np.nan) if judged.any() else None
    none = sum(answer is None for answer in chosen)
    least, most = int(entropies.answers.min()), int(entropies.answers.max())
    said = (
        f"{len(entropies.prompts):,} problems with {least if least == most else f'{least} to {most}'} answers each, "
        f"mean {entropies.entropy.mean():.3f} nats. The final answer is {_CONVENTIONS[found.convention]}; "
        f"texts without one, {none:,} of them, count as an answer of their own."
    )
    if equal.given_up:
        said += f" {equal.given_up:,} comparisons by algebra were not made or not finished and count as different."
    return plot_semantic_entropy(entropies, accuracy), said


def _ranking(types: Sequence[TokenType]) -> Numbers:
    rows = [
        [
            str(kind.token),
            f"{kind.count:,}",
            f"{kind.entropy:.3f}",
            f"{kind.low:.3f} to {kind.high:.3f}" if math.isfinite(kind.high) else "one response only",
        ]
        for kind in types
    ]
    return Numbers(columns=["token", "count", "mean entropy, nats", "95 %"], rows=rows, total=len(rows))
