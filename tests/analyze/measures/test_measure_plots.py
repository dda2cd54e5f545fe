from __future__ import annotations

import re
import warnings
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from test_training_curves import arm

from forkpoint.analyze.measures.agreement import agreement, plot_agreement
from forkpoint.analyze.measures.ceiling import fit_law, plot_law
from forkpoint.analyze.measures.divergence import Case, Divergence, plot_divergence, summarise
from forkpoint.analyze.measures.paper_figures import (
    change_by_percentile,
    entropy_histogram,
    plot_change_by_percentile,
    plot_entropy_histogram,
)
from forkpoint.analyze.measures.paper_tables import overlap_over_checkpoints, plot_overlap
from forkpoint.analyze.measures.phases import entropy_by_phase, entropy_by_position, plot_phases
from forkpoint.analyze.measures.quadrants import plot_quadrants, quadrants
from forkpoint.analyze.measures.sequence import entropy_area, entropy_reduction, semantic_entropy
from forkpoint.analyze.measures.sequence_plots import plot_entropy_area, plot_entropy_reduction, plot_semantic_entropy
from forkpoint.analyze.measures.temperature import plot_temperature_curves, temperature_curves
from forkpoint.analyze.measures.token_types import plot_word_cloud, token_types
from forkpoint.analyze.measures.training_curves import (
    percentiles_over_training,
    plot_accuracy_by_size,
    plot_arms,
    plot_percentiles_over_training,
)
from forkpoint.evaluate.stats import accuracy

RNG = np.random.default_rng(11)
OFFSETS = np.arange(0, 2001, 100)
ENTROPY = np.where(RNG.random(2000) < 0.5, RNG.exponential(0.003, 2000), RNG.gamma(2.0, 0.5, 2000))
LATER = ENTROPY * 1.2 + RNG.normal(0, 0.02, 2000)
ADVANTAGE = np.repeat(RNG.choice([-1.0, 0.0, 1.0], 20), 100)
SCORES = {"entropy": ENTROPY, "surprisal": RNG.exponential(ENTROPY), "|A|(1 - p)": RNG.random(2000)}
PROBLEMS = list(range(12))


def judged(share):
    return PROBLEMS, [float(i < share * 12) for i in PROBLEMS]


def divergence():
    cases = [
        Case(response=r, position=2, place=place, action=action, entropy=0.5, changed=(r + k) % 3, judged=2)
        for r in range(12)
        for k, place in enumerate(("fork", "random", "near"))
        for action in ("redraw", "keep")
    ]
    rates, differences = summarise(cases, [10] * 12)
    return Divergence(rates=rates, differences=differences, cases=tuple(cases), skipped=0, unjudged=0)


DRAWN = {
    "histogram": lambda **k: plot_entropy_histogram(
        {"base": entropy_histogram(ENTROPY, OFFSETS), "final": entropy_histogram(LATER, OFFSETS)}, **k
    ),
    "change": lambda **k: plot_change_by_percentile(change_by_percentile(ENTROPY, LATER, OFFSETS), **k),
    "percentiles": lambda **k: plot_percentiles_over_training(
        percentiles_over_training({1: (ENTROPY, OFFSETS), 5: (LATER, OFFSETS), 9: (ENTROPY, OFFSETS)}), **k
    ),
    "overlap": lambda **k: plot_overlap(overlap_over_checkpoints({0: ENTROPY, 4: LATER, 9: LATER**2}, OFFSETS), **k),
    "cloud": lambda **k: plot_word_cloud(
        token_types([f"w{i % 40}" for i in range(2000)], ENTROPY, OFFSETS, min_count=5, top=20).most, **k
    ),
    "temperatures": lambda **k: plot_temperature_curves(
        temperature_curves({(t, 1.0): judged(0.6) for t in (0, 1.0, 5)} | {(1.0, t): judged(0.3) for t in (0, 2, 5)}),
        **k,
    ),
    "arms": lambda **k: plot_arms([arm("all", 1, [0.2, 0.3]), arm("top 20 %", 0.2, [0.2, 0.4])], **k),
    "size": lambda **k: plot_accuracy_by_size(
        {"all": [(8, accuracy(*judged(0.3))), (14, accuracy(*judged(0.5)))], "top": [(8, accuracy(*judged(0.4)))]}, **k
    ),
    "agreement": lambda **k: plot_agreement(agreement(SCORES, OFFSETS), **k),
    "quadrants": lambda **k: plot_quadrants(quadrants(ENTROPY, ADVANTAGE, np.abs(ADVANTAGE), OFFSETS), **k),
    "phases": lambda **k: plot_phases(
        entropy_by_phase(ENTROPY, OFFSETS, [60] * 20), entropy_by_position(ENTROPY, OFFSETS), **k
    ),
    "divergence": lambda **k: plot_divergence(divergence(), **k),
    "ceiling": lambda **k: plot_law(
        fit_law(np.linspace(0.2, 0.9, 30), 0.9 - 0.2 * np.exp(np.linspace(0.2, 0.9, 30)) + RNG.normal(0, 0.02, 30)), **k
    ),
}
DRAWN |= {
    "area": lambda **k: plot_entropy_area(entropy_area(ENTROPY, OFFSETS), **k),
    "semantic": lambda **k: plot_semantic_entropy(
        semantic_entropy(RNG.integers(0, 3, 40), np.repeat(np.arange(10), 4).tolist()), np.linspace(0, 1, 10), **k
    ),
    "reduction": lambda **k: plot_entropy_reduction(entropy_reduction(ENTROPY[:200], np.arange(0, 201, 10)), **k),
}
BOUNDED = ("histogram", "change", "percentiles", "arms", "quadrants", "phases", "ceiling")


@pytest.fixture(scope="module")
def drawn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {kind: draw() for kind, draw in DRAWN.items()}


def ids(svg):
    return re.findall(r'\bid="([^"]+)"', svg)


@pytest.mark.parametrize("kind", DRAWN)
def test_every_plot_is_self_contained_and_labelled(drawn, kind):
    svg = drawn[kind]
    root = ET.fromstring(svg)
    assert root.get("role") == "img"
    assert len(root.get("aria-label")) > 20
    assert "nan" not in root.get("aria-label")
    assert len(svg) < 60_000
    assert "<text" in svg
    assert "<style" not in svg
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", svg)
    wanted = set(re.findall(r"url\(#([^)]+)\)", svg)) | set(re.findall(r'href="#([^"]+)"', svg))
    assert wanted <= set(ids(svg))


def test_plots_share_no_ids(drawn):
    found = [name for svg in drawn.values() for name in ids(svg)]
    assert len(found) == len(set(found))
    assert not set(ids(DRAWN["overlap"](name="other"))) & set(found)


def test_plots_follow_the_scheme_of_the_page(drawn):
    fixed = re.compile(r"(?:fill|stroke): ?#(?!ffffff)[0-9a-f]{6}")
    for kind, svg in drawn.items():
        assert "var(--series-1" in svg, kind
        assert not fixed.search(svg), kind


@pytest.mark.parametrize("kind", BOUNDED)
def test_lower_bounds_are_called_so(kind):
    assert "lower bound" not in DRAWN[kind]()
    assert "lower bound" in DRAWN[kind](lower_bound=True)


def test_labels_of_anybody_are_shown_not_obeyed():
    hostile = "_<script>$\\frac{1}{0}$\u202e\x00"
    svg = plot_entropy_histogram({hostile: entropy_histogram([0.1, 0.2], [0, 2])})
    svg += plot_arms([arm(hostile, 1, [0.2])]) + plot_agreement(agreement({hostile: [1, 2], "b": [2, 1]}, [0, 2]))
    assert "<script>" not in svg
    assert "\u202e" not in svg
    assert "\x00" not in svg
    # Each in its aria-label, and in the legend of the first two; ticks are cut short.
    assert svg.count("&lt;script&gt;$\\frac{1}{0}$⟨U+202E⟩⟨U+0000⟩") == 5
    assert ">$\\frac{1}{0}$<" in plot_law(fit_law([0.1, 0.2], [0.5, 0.4]), performance="$\\frac{1}{0}$")


def test_what_could_not_be_known_is_drawn_as_a_gap():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = entropy_histogram([0.5], [0, 1])
        assert plot_entropy_histogram({"one": one}).startswith("<svg")
        assert plot_change_by_percentile(change_by_percentile([1.0], [1.0], [0, 1])).startswith("<svg")
        assert plot_overlap(overlap_over_checkpoints({0: [1.0, 2.0]}, [0, 2])).startswith("<svg")
        assert plot_law(fit_law([0.1, 0.2], [0.5, 0.4])).startswith("<svg")
        assert plot_arms([arm("empty", 1, [float("nan")], entropy=[])]).startswith("<svg")
        assert "1 left out" in plot_entropy_area(entropy_area([float("nan")], [0, 1]))
        assert "No response has a step" in plot_entropy_reduction(entropy_reduction([1.0], [0, 1]))
        assert plot_quadrants(quadrants([1.0], [0.0], [0.0], [0, 1])).startswith("<svg")
